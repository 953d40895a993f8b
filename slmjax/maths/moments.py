"""Running mean and variance as data: kept in the learner, frozen in evaluation, saved with the checkpoint."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.types import Array, PyTree


class Moments(NamedTuple):
    """Count, mean and population variance of everything seen so far; `mean` and `var` are shaped like one value."""

    count: Array  # type: ignore[assignment]  # shadows tuple.count, which nobody wants here
    mean: PyTree
    var: PyTree


def init(example: PyTree) -> Moments:
    """Nothing seen: mean 0, variance 1."""
    zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), example)
    return Moments(jnp.zeros(()), zeros, jax.tree.map(lambda x: x + 1.0, zeros))


def update(moments: Moments, x: PyTree, weight: Array) -> Moments:
    """With a batch `x [B, ...]` of weights 0 or 1 `[B]` added (parallel variance, Chan et al. 1979)."""
    added = jnp.sum(weight)
    total = moments.count + added

    def merge(mean: Array, var: Array, values: Array) -> tuple[Array, Array]:
        w = weight.reshape(-1, *([1] * (values.ndim - 1)))
        values = jnp.where(w > 0, values, 0.0)  # NaN times 0 is NaN
        batch_mean = jnp.sum(values * w, 0) / jnp.maximum(added, 1.0)
        batch_var = jnp.sum((values - batch_mean) ** 2 * w, 0) / jnp.maximum(added, 1.0)
        delta = batch_mean - mean
        share = added / jnp.maximum(total, 1.0)
        new_var = var * (1.0 - share) + batch_var * share + delta**2 * share * (1.0 - share)
        return mean + delta * share, new_var

    merged = jax.tree.map(merge, moments.mean, moments.var, x)
    mean, var = jax.tree.transpose(jax.tree.structure(moments.mean), jax.tree.structure((0, 0)), merged)
    return Moments(total, mean, var)


def normalize(moments: Moments, x: PyTree, clip: Any = 10.0) -> PyTree:
    """`(x - mean) / std`, clipped to `[-clip, clip]`."""
    return jax.tree.map(
        lambda v, mean, var: jnp.clip((v - mean) / jnp.sqrt(var + 1e-8), -clip, clip), x, moments.mean, moments.var
    )


def scale(moments: Moments, x: Array, clip: Any = 10.0) -> Array:
    """`x / std`, clipped to `[-clip, clip]`: keeps the sign and the zero."""
    return jnp.clip(x / jnp.sqrt(moments.var + 1e-8), -clip, clip)
