"""Multi-layer perceptrons: heads for the parts of an observation, a body, one or several tails; plain or dueling."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from slmjax.nets import inputs, layers
from slmjax.nets.batch_renorm import STATISTICS, BatchRenorm
from slmjax.nets.keys import RenormKeys
from slmjax.nets.layers import Inits, Recipe
from slmjax.registry import nearest
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Dict, Key, Net, Network, PyTree, Space, SpecError, Tail

Widths = tuple[int, ...]


@hyper
class MLPNet(RenormKeys):
    """`agent.net` of type `MLPNet` or `DuelingMLPNet`: dense layers, then a tail for each thing that is predicted.

    Dueling, a critic that puts out a number an action is a value and advantages (Wang et al. 2016).
    """

    type: str = key(default="MLPNet", doc="name of the network")
    head_hid_layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None = key(
        default=None,
        doc="layers that each part of a Dict observation has of its own: a list for all parts, or lists by name",
        low=1,
    )
    hid_layers: tuple[int, ...] = key(default=(64, 64), doc="width of each hidden layer", low=1)
    critic_hid_layers: tuple[int, ...] | None = key(default=None, doc="hidden layers of a separate critic", low=1)


class MLP(nn.Module):
    """Heads, body and tails; takes one `[..., size]` a head and returns one `[..., width]` a tail.

    Attributes:
        heads: hidden layers of each part of the input.
        body: hidden layers over all parts joined.
        look: how layers look.
        inits: their initialisers.
        renorm: batches of plain batch normalisation; None: no batch renormalisation.
    """

    heads: tuple[Widths, ...]
    body: Widths
    look: Recipe
    inits: Inits
    renorm: int | None = None

    @nn.compact
    def __call__(self, parts: tuple[Array, ...], train: bool = False, weight: Array | None = None) -> tuple[Array, ...]:
        """The tails' outputs."""

        def after(x: Array) -> Array:
            return x if self.renorm is None else BatchRenorm(self.renorm)(x, train, weight)

        init = self.inits.hidden
        seen = [layers.hidden(after(x), own, self.look, init, after) for x, own in zip(parts, self.heads, strict=True)]
        x = layers.body(jnp.concatenate(seen, -1), self.body, self.look, init, after)
        return layers.tails(x, self.look, self.inits, after)


def build(
    spec: MLPNet, observation_space: Space, tails: tuple[Tail, ...], critic: bool = False, dueling: bool = False
) -> Net:
    """A network from its spec: observations of any space in, one output a tail out.

    `critic` chooses `critic_hid_layers` where they are given.

    Raises:
        SpecError: unknown activation or initialiser, heads that do not fit the observation, or norms without a layer.
    """
    hidden = spec.critic_hid_layers if critic and spec.critic_hid_layers is not None else spec.hid_layers
    heads = _heads(spec, observation_space)
    look = layers.recipe(spec, tails, hidden, dueling)
    renorm = spec.batch_renorm_warmup if spec.batch_renorm else None
    module = MLP(heads or ((),), hidden, look, layers.no_inits(tails), renorm)

    def see(obs: Any) -> tuple[Array, ...]:
        if heads and isinstance(observation_space, Dict):
            return inputs.parts(observation_space, obs)
        return (inputs.flatten(observation_space, obs),)

    def init(rng: Key, spec: MLPNet) -> PyTree:
        fresh = module.clone(inits=layers.inits(spec, tails))
        return fresh.init(rng, see(inputs.example(observation_space)))

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        outputs: Any = module.apply(params, see(obs))
        return outputs, carry

    def learn(params: PyTree, obs: PyTree, weight: Array | None = None) -> tuple[tuple[Array, ...], PyTree]:
        outputs, moved = module.apply(params, see(obs), True, weight, mutable=[STATISTICS])
        return outputs, params | moved

    return Net(init, apply, learn=learn if spec.batch_renorm else None)


def _heads(spec: MLPNet, space: Space) -> tuple[Widths, ...]:
    """Hidden layers of each part of a dict, in the order of their names; empty where it is read as one vector."""
    path, asked = "agent.net.head_hid_layers", spec.head_hid_layers
    if asked is None:
        return ()
    if not isinstance(space, Dict):
        raise SpecError(f"expected a Dict observation, whose parts it is for, got {space}.", path)
    names = sorted(space.spaces)
    if not isinstance(asked, dict):
        return (asked,) * len(names)
    for name, widths in asked.items():
        if name not in names:
            known = ", ".join(names)
            raise SpecError(f"unknown part {name!r}.{nearest(name, names)} Known: {known}.", f"{path}.{name}")
        if any(width < 1 for width in widths):
            raise SpecError(f"expected a list of integers >= 1, got {list(widths)}.", f"{path}.{name}")
    return tuple(asked.get(name, ()) for name in names)


MLP_NET = Network(MLPNet, build)
DUELING_MLP_NET = Network(MLPNet, partial(build, dueling=True))
