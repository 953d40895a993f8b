"""Multi-layer perceptron with one or several tails."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from slmjax.nets import inputs
from slmjax.nets.initializers import activation, initializer, orthogonal
from slmjax.nets.keys import NetKeys
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, Net, Network, PyTree, Space, Tail


@hyper
class MLPNet(NetKeys):
    """`agent.net` of type `MLPNet`: dense layers, then one tail for each thing that the algorithm predicts."""

    type: str = key(default="MLPNet", doc="name of the network")
    hid_layers: tuple[int, ...] = key(default=(64, 64), doc="width of each hidden layer", low=1)
    hid_layers_activation: str = key(default="tanh", doc="any flax activation")
    out_layer_activation: str | None = key(default=None, doc="activation of the tails")
    init_fn: str | None = key(default=None, doc="any flax initialiser; none: lecun_normal")
    init_gain: float = key(default=2.0**0.5, doc="gain of `orthogonal` in the hidden layers", above=0)
    critic_hid_layers: tuple[int, ...] | None = key(default=None, doc="hidden layers of a separate critic", low=1)


class MLP(nn.Module):
    """Dense layers and tails; `__call__` takes `[..., size]` and returns one `[..., width]` a tail."""

    hidden: tuple[int, ...]
    widths: tuple[int, ...]
    act: Callable[[Array], Array]
    out_act: Callable[[Array], Array]
    kernel_init: Callable[..., Array]
    tail_inits: tuple[Callable[..., Array], ...]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        """The tails' outputs."""
        for width in self.hidden:
            x = self.act(nn.Dense(width, kernel_init=self.kernel_init)(x))
        tails = zip(self.widths, self.tail_inits, strict=True)
        return tuple(self.out_act(nn.Dense(width, kernel_init=init)(x)) for width, init in tails)


def build(spec: MLPNet, observation_space: Space, tails: tuple[Tail, ...], critic: bool = False) -> Net:
    """A network from its spec: observations of any space in, one output a tail out.

    `critic` chooses `critic_hid_layers` where they are given.

    Raises:
        SpecError: unknown activation or initialiser.
    """
    hidden = spec.critic_hid_layers if critic and spec.critic_hid_layers is not None else spec.hid_layers
    # To check shapes, flax traces every initialiser again whenever a module is applied: it gets cheap ones there.
    zeros = initializer("zeros", None)
    module = MLP(
        hidden=hidden,
        widths=tuple(tail.width for tail in tails),
        act=activation(spec.hid_layers_activation, "agent.net.hid_layers_activation"),
        out_act=activation(spec.out_layer_activation, "agent.net.out_layer_activation"),
        kernel_init=zeros,
        tail_inits=(zeros,) * len(tails),
    )
    initializer(spec.init_fn, None)  # an unknown name shows here, not in the first trace

    def init(rng: Key, spec: MLPNet) -> PyTree:
        kernel_init = initializer(spec.init_fn, spec.init_gain)
        own = [getattr(spec, f"{tail.role}_init_std") for tail in tails]
        tail_inits = tuple(kernel_init if gain is None else orthogonal(gain) for gain in own)
        fresh = module.clone(kernel_init=kernel_init, tail_inits=tail_inits)
        return fresh.init(rng, jnp.zeros((inputs.size(observation_space),)))

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        outputs: Any = module.apply(params, inputs.flatten(observation_space, obs))
        return outputs, carry

    return Net(init, apply)


MLP_NET = Network(MLPNet, build)
