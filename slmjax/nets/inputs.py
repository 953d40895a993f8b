"""From an observation of any space to what the first layer reads: one vector, a vector a part, or images."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def example(space: Space) -> PyTree:
    """One observation, all zeros, in NumPy."""
    if isinstance(space, Dict):
        return {name: example(part) for name, part in space.spaces.items()}
    return np.zeros(space.shape, space.dtype)


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
    return numbers(space, obs).reshape(*lead, -1)


def numbers(space: Any, obs: Array) -> Array:
    """float32 of the same shape; bytes are divided by 255."""
    cast = obs.astype(jnp.float32)
    return cast / 255.0 if isinstance(space, Box) and jnp.dtype(space.dtype) == jnp.uint8 else cast


def parts(space: Dict, obs: dict[str, PyTree]) -> tuple[Array, ...]:
    """Each part of a dict flattened, `[..., size]`, in the order of their names."""
    return tuple(flatten(part, obs[name]) for name, part in sorted(space.spaces.items()))


def is_image(space: Space) -> bool:
    """True for a box `[height, width, channels]`."""
    return isinstance(space, Box) and len(space.shape) == 3


def leaves(space: Space, obs: PyTree) -> list[tuple[Space, Array]]:
    """The parts of nested dicts with their values, in the order of their names; what is no dict, alone."""
    if not isinstance(space, Dict):
        return [(space, obs)]
    return [leaf for name, part in sorted(space.spaces.items()) for leaf in leaves(part, obs[name])]


def split(space: Space, obs: PyTree) -> tuple[tuple[Array, ...], Array | None]:
    """The images of an observation, `[..., height, width, channels]`, and the rest of it as one vector, if any."""
    every = leaves(space, obs)
    images = tuple(numbers(*leaf) for leaf in every if is_image(leaf[0]))
    rest = [flatten(*leaf) for leaf in every if not is_image(leaf[0])]
    return images, jnp.concatenate(rest, -1) if rest else None
