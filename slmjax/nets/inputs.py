"""From an observation of any space to the flat float vector that a dense layer reads."""

import math

import jax
import jax.numpy as jnp

from slmjax.types import Array, Box, Dict, Discrete, MultiBinary, MultiDiscrete, PyTree, Space


def size(space: Space) -> int:
    """Length of `flatten`'s result for one observation."""
    match space:
        case Discrete(n=n):
            return n
        case MultiDiscrete(nvec=nvec):
            return sum(nvec)
        case MultiBinary(n=n):
            return n
        case Dict(spaces=spaces):
            return sum(size(part) for part in spaces.values())
    return math.prod(space.shape)


def flatten(space: Space, obs: PyTree) -> Array:
    """Observations `[..., *space.shape]` as float32 `[..., size(space)]`.

    Integers that stand for categories become one-hot, bytes are divided by 255, dicts are joined in the order of their
    names. Any number of leading axes.
    """
    match space:
        case Discrete(n=n):
            return jax.nn.one_hot(obs, n)
        case MultiDiscrete(nvec=nvec):
            return jnp.concatenate([jax.nn.one_hot(obs[..., i], n) for i, n in enumerate(nvec)], -1)
        case Dict(spaces=spaces):
            return jnp.concatenate([flatten(part, obs[name]) for name, part in sorted(spaces.items())], -1)
    lead = obs.shape[: obs.ndim - len(space.shape)]
    flat = obs.reshape(*lead, -1).astype(jnp.float32)
    return flat / 255.0 if isinstance(space, Box) and jnp.dtype(space.dtype) == jnp.uint8 else flat
