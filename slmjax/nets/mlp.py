"""Multi-layer perceptron with one or several tails, and the net keys that every algorithm shares."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from slmjax.nets import inputs
from slmjax.nets.initializers import activation, initializer, orthogonal
from slmjax.nets.optim import OptimSpec
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, PyTree, Space

LOSSES = ("MSELoss", "SmoothL1Loss", "HuberLoss", "L1Loss")


@hyper
class LossSpec:
    """`agent.net.loss_spec`: how the error of a value is punished."""

    name: str = key(
        default="MSELoss", doc="loss of a value", choices=("MSELoss", "SmoothL1Loss", "HuberLoss", "L1Loss")
    )


@hyper
class MLPNet:
    """`agent.net` of type `MLPNet`: dense layers, then one tail for each thing that the algorithm predicts."""

    type: str = key(default="MLPNet", doc="name of the network")
    hid_layers: tuple[int, ...] = key(default=(64, 64), doc="width of each hidden layer", low=1)
    hid_layers_activation: str = key(default="tanh", doc="any flax activation")
    out_layer_activation: str | None = key(default=None, doc="activation of the tails")
    init_fn: str | None = key(default=None, doc="any flax initialiser; none: lecun_normal")
    init_gain: float = key(default=2.0**0.5, doc="gain of `orthogonal` in the hidden layers", above=0)
    actor_init_std: float | None = key(default=None, doc="gain of an orthogonal policy tail; none: `init_fn`", above=0)
    critic_init_std: float | None = key(default=None, doc="gain of an orthogonal value tail; none: `init_fn`", above=0)
    log_std_init: float = key(default=0.0, doc="log of the first standard deviation of a Normal policy")
    shared: bool = key(default=False, doc="actor and critic share the hidden layers")
    critic_hid_layers: tuple[int, ...] | None = key(default=None, doc="hidden layers of a separate critic", low=1)
    clip_grad_val: float | None = key(default=None, doc="largest global norm of a gradient", above=0)
    loss_spec: LossSpec = key(default=LossSpec(), doc="loss of the values")
    optim_spec: OptimSpec = key(default=OptimSpec(), doc="optimiser")
    critic_optim_spec: OptimSpec | None = key(default=None, doc="optimiser of a separate critic; none: `optim_spec`")
    update_type: str = key(default="replace", doc="how a target network follows", choices=("replace", "polyak"))
    update_frequency: int = key(default=1, doc="frames between two updates of a target network", low=1)
    polyak_coef: float = key(default=0.005, doc="share of the online network in a polyak update", low=0, high=1)


class Tail(NamedTuple):
    """One output of a network: its width, and the gain of its orthogonal initialisation (None: the net's `init_fn`)."""

    width: int
    gain: Any = None


class Net(NamedTuple):
    """A network as pure functions; algorithms see nothing else of it.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, obs [..., obs], carry) -> (tuple of outputs [..., width], carry)`.
        carry: `(num_envs) -> carry` of a fresh episode; `()` for feed-forward nets.
    """

    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, PyTree, PyTree], tuple[tuple[Array, ...], PyTree]]
    carry: Callable[[int], PyTree] = lambda num_envs: ()


class MLP(nn.Module):
    """Dense layers and tails; `__call__` takes `[..., size]` and returns one `[..., width]` a tail."""

    hidden: tuple[int, ...]
    tails: tuple[Tail, ...]
    act: Callable[[Array], Array]
    out_act: Callable[[Array], Array]
    kernel_init: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        """The tails' outputs."""
        for width in self.hidden:
            x = self.act(nn.Dense(width, kernel_init=self.kernel_init)(x))
        init = lambda gain: self.kernel_init if gain is None else orthogonal(gain)  # noqa: E731
        return tuple(self.out_act(nn.Dense(t.width, kernel_init=init(t.gain))(x)) for t in self.tails)


def build(spec: MLPNet, observation_space: Space, tails: tuple[Tail, ...], critic: bool = False) -> Net:
    """A network from its spec: observations of any space in, one output a tail out.

    `critic` chooses `critic_hid_layers` where they are given.

    Raises:
        SpecError: unknown activation or initialiser.
    """
    hidden = spec.critic_hid_layers if critic and spec.critic_hid_layers is not None else spec.hid_layers
    module = MLP(
        hidden=hidden,
        tails=tails,
        act=activation(spec.hid_layers_activation),
        out_act=activation(spec.out_layer_activation),
        kernel_init=initializer(spec.init_fn, spec.init_gain),
    )
    width = inputs.size(observation_space)
    # To check shapes, flax traces every initialiser again whenever a module is applied: give it cheap ones there.
    applied = module.clone(kernel_init=initializer("zeros", None), tails=tuple(Tail(t.width) for t in tails))

    def init(rng: Key) -> PyTree:
        return module.init(rng, jnp.zeros((width,)))

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        outputs: Any = applied.apply(params, inputs.flatten(observation_space, obs))
        return outputs, carry

    return Net(init, apply)


def param_count(params: PyTree) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
