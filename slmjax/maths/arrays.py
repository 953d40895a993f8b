"""What NumPy and JAX leave to be said of arrays and trees of them."""

from typing import Any

import jax
import jax.numpy as jnp

from slmjax.types import Array, PyTree


def same_shape(*arrays: Any) -> None:
    """Raises ValueError unless all have one shape: `[B]` against `[B, 1]` would broadcast to `[B, B]` in silence."""
    shapes = [jnp.shape(array) for array in arrays]
    if len(set(shapes)) > 1:
        raise ValueError(f"expected equal shapes, got {', '.join(map(str, shapes))}.")


def where(flag: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where `flag [...]` is set, else `old`: in every leaf `[..., *]`, whose first axes are those of `flag`."""
    expand = lambda x: flag.reshape(flag.shape + (1,) * (x.ndim - flag.ndim))  # noqa: E731
    return jax.tree.map(lambda x, y: jnp.where(expand(y), x, y), new, old)


def pick(values: Array, index: Array) -> Array:
    """`values [..., A]` at `index [...]`: `[...]`.

    A sum with one term and not a gather, whose gradient would be a scatter: slow on every device.
    """
    chosen = jnp.arange(values.shape[-1]) == index[..., None]
    return jnp.sum(jnp.where(chosen, values, 0.0), -1)
