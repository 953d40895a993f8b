"""The net keys that algorithms read, for networks of any kind."""

from slmjax.nets.optim import OptimSpec
from slmjax.spec.schema import hyper, key

# Keys that only make sense with an actor besides a critic, with a critic besides an actor, with both in one policy
# gradient, with a target network.
ACTOR_KEYS = ("actor_init_std", "log_std_init", "shared", "critic_optim_spec", "critic_hid_layers")
CRITIC_KEYS = ("critic_init_std", "shared", "critic_optim_spec", "critic_hid_layers", "loss_spec")
POLICY_GRADIENT_KEYS = ("log_std_init", "shared")
TARGET_KEYS = ("update_type", "update_frequency", "polyak_coef")
LOSSES = ("MSELoss", "SmoothL1Loss", "HuberLoss", "L1Loss")


@hyper
class LossSpec:
    """`agent.net.loss_spec`: what the error of a value costs."""

    name: str = key(default="MSELoss", doc="loss of a value", choices=LOSSES)


@hyper
class NetKeys:
    """Keys of every network. A network's own dataclass extends this one by the keys of its shape."""

    actor_init_std: float | None = key(default=None, doc="gain of an orthogonal policy head; none: `init_fn`", above=0)
    critic_init_std: float | None = key(default=None, doc="gain of an orthogonal value head; none: `init_fn`", above=0)
    log_std_init: float = key(default=0.0, doc="log of the first standard deviation of a Normal policy")
    shared: bool = key(default=False, doc="actor and critic share the hidden layers")
    clip_grad_val: float | None = key(default=None, doc="largest global norm of a gradient", above=0)
    loss_spec: LossSpec = key(default=LossSpec(), doc="loss of the values")
    optim_spec: OptimSpec = key(default=OptimSpec(), doc="optimiser")
    critic_optim_spec: OptimSpec | None = key(default=None, doc="optimiser of a separate critic; none: `optim_spec`")
    update_type: str = key(default="replace", doc="how a target network follows", choices=("replace", "polyak"))
    update_frequency: int = key(default=1000, doc="frames between two copies to a target network, for `replace`", low=1)
    polyak_coef: float = key(
        default=0.005, doc="how far a gradient step moves a target network, for `polyak`", low=0, high=1
    )


@hyper
class LayerKeys(NetKeys):
    """Keys of every network of this package: what its layers are. A network adds how many there are."""

    hid_layers_activation: str = key(default="tanh", doc="any flax activation")
    out_layer_activation: str | None = key(default=None, doc="activation of the heads")
    init_fn: str | None = key(default=None, doc="any flax initialiser; none: lecun_normal")
    init_gain: float = key(
        default=2.0**0.5, doc="gain of `orthogonal` in the hidden layers; the value of `constant`", above=0
    )
    head_hid_layers: tuple[int, ...] = key(default=(), doc="hidden layers that each head has of its own", low=1)
    layer_norm: bool = key(default=False, doc="standardise the features of each hidden layer before its activation")
    weight_norm: bool = key(
        default=False, doc="hidden dense layers learn the length and the direction of their weights"
    )
    spectral_norm: bool = key(default=False, doc="the last hidden layer is divided by its largest singular value")


@hyper
class RenormKeys(LayerKeys):
    """Keys of networks that an algorithm may learn with statistics of the batch."""

    batch_renorm: bool = key(
        default=False, doc="batch renormalisation of an input that is a vector, and after each hidden layer"
    )
    batch_renorm_warmup: int = key(
        default=10_000, doc="batches for which that is plain batch normalisation", low=0, high=10_000_000
    )
