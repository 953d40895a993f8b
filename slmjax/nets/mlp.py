"""Multi-layer perceptrons: encoders for the parts of an observation, a body, one or several heads; plain or dueling."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from slmjax.nets import inputs, layers
from slmjax.nets.batch_renorm import renormalise
from slmjax.nets.keys import RenormKeys
from slmjax.nets.layers import Inits, LayerSpec
from slmjax.registry import nearest
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Dict, Head, Net, Network, Space, SpecError

Widths = tuple[int, ...]


@hyper
class MLPNet(RenormKeys):
    """`agent.net` of type `MLPNet` or `DuelingMLPNet`: dense layers, then a head for each thing that is predicted.

    Dueling, a critic that puts out a number an action is a value and advantages (Wang et al. 2016).
    """

    type: str = key(default="MLPNet", doc="name of the network")
    encoder_hid_layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None = key(
        default=None,
        doc="layers that each part of a Dict observation has of its own: a list for all parts, or lists by name",
        low=1,
    )
    hid_layers: tuple[int, ...] = key(default=(64, 64), doc="width of each hidden layer", low=1)
    critic_hid_layers: tuple[int, ...] | None = key(default=None, doc="hidden layers of a separate critic", low=1)


class MLP(nn.Module):
    """Encoders, body and heads; takes one `[..., size]` an encoder and returns one `[..., width]` a head.

    Attributes:
        encoders: hidden layers of each part of the input.
        body: hidden layers over all parts joined.
        spec: what its layers are.
        inits: their initialisers.
        renorm: batches of plain batch normalisation; None: no batch renormalisation.
    """

    encoders: tuple[Widths, ...]
    body: Widths
    spec: LayerSpec
    inits: Inits
    renorm: int | None = None

    @nn.compact
    def __call__(self, parts: tuple[Array, ...], train: bool = False, weight: Array | None = None) -> tuple[Array, ...]:
        """The heads' outputs."""
        after, init = renormalise(self.renorm, train, weight), self.inits.hidden
        pairs = zip(parts, self.encoders, strict=True)
        seen = [layers.hidden(after(x), widths, self.spec, init, after) for x, widths in pairs]
        x = layers.body(jnp.concatenate(seen, -1), self.body, self.spec, init, after)
        return layers.heads(x, self.spec, self.inits, after)


def build(
    spec: MLPNet, observation_space: Space, heads: tuple[Head, ...], critic: bool = False, dueling: bool = False
) -> Net:
    """A network from its spec: observations of any space in, one output a head out.

    `critic` chooses `critic_hid_layers` where they are given.

    Raises:
        SpecError: unknown activation or initialiser, encoders that do not fit it, or norms without a layer.
    """
    hidden = spec.critic_hid_layers if critic and spec.critic_hid_layers is not None else spec.hid_layers
    encoders = _encoders(spec, observation_space)
    what = layers.layer_spec(spec, heads, hidden, dueling)
    renorm = spec.batch_renorm_warmup if spec.batch_renorm else None
    module = MLP(encoders or ((),), hidden, what, layers.no_inits(heads), renorm)

    def see(obs: Any) -> tuple[tuple[Array, ...]]:
        if encoders and isinstance(observation_space, Dict):
            return (inputs.parts(observation_space, obs),)
        return ((inputs.flatten(observation_space, obs),),)

    return layers.feed_forward(module, see, observation_space, spec.batch_renorm)


def _encoders(spec: MLPNet, space: Space) -> tuple[Widths, ...]:
    """Hidden layers of each part of a dict, in the order of their names; empty where it is read as one vector."""
    path, asked = "agent.net.encoder_hid_layers", spec.encoder_hid_layers
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
