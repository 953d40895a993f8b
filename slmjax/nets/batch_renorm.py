"""Batch renormalisation (Ioffe 2017), as CrossQ uses it (Bhatt et al. 2024).

    batch:    m_B, s_B                     r = clip(s_B / s, 1/r_max, r_max),  d = clip((m_B - m) / s, -d_max, d_max)
    training: y = (x - m_B) / s_B r + d    m += momentum (m_B - m),  s += momentum (s_B - s)
    else:     y = (x - m) / s

Where nothing is clipped the two are the same function, so acting and learning see one network. For the first `warmup`
batches r = 1 and d = 0: batch normalisation.

The statistics are part of `params`, next to what is trained: `{"params": ..., "batch_stats": ...}`. No gradient reaches
them, but an optimiser may still move what has none (weight decay). So an algorithm takes them from `Net.learn`:

    outputs, learned = net.learn(params, obs)           # inside of the loss; `learned` is handed out as auxiliary
    params = keep_statistics(params, learned)           # after the step of the optimiser: see learners/descent.py
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from slmjax.types import Array, PyTree

STATISTICS = "batch_stats"


class BatchRenorm(nn.Module):
    """Standardises features `[..., features]` over all leading axes (Ioffe 2017, algorithm 1).

    Attributes:
        warmup: batches during which it is plain batch normalisation.
        momentum: share of a batch in the running statistics.
        eps: added to a batch's variance.
        r_max: limit of the correction of the deviation.
        d_max: limit of the correction of the mean, in running deviations.
    """

    warmup: int = 10_000
    momentum: float = 0.01
    eps: float = 1e-5
    r_max: float = 3.0
    d_max: float = 5.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False, weight: Array | None = None) -> Array:
        """The features standardised, scaled and shifted; `weight [...]` leaves rows out of the statistics."""
        features = (x.shape[-1],)
        mean = self.variable(STATISTICS, "mean", jnp.zeros, features)
        deviation = self.variable(STATISTICS, "deviation", jnp.ones, features)
        # A float like all parameters, so that gradients and targets treat them alike.
        batches = self.variable(STATISTICS, "batches", jnp.zeros, ())
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        m, s, seen = (jax.lax.stop_gradient(v.value) for v in (mean, deviation, batches))
        if not train:
            return scale * (x - m) / s + bias
        m_batch, s_batch, share = self.moments(x, weight)
        r = jnp.clip(jax.lax.stop_gradient(s_batch) / s, 1.0 / self.r_max, self.r_max)
        d = jnp.clip((jax.lax.stop_gradient(m_batch) - m) / s, -self.d_max, self.d_max)
        warm = seen >= self.warmup
        standard = (x - m_batch) / s_batch * jnp.where(warm, r, 1.0) + jnp.where(warm, d, 0.0)
        if not self.is_initializing():
            mean.value = jax.lax.stop_gradient(m + share * (m_batch - m))
            deviation.value = jax.lax.stop_gradient(s + share * (s_batch - s))
            batches.value = seen + 1.0
        return scale * standard + bias

    def moments(self, x: Array, weight: Array | None) -> tuple[Array, Array, Array]:
        """Mean and deviation of a batch, and its share in the running ones: 0 where no row has weight."""
        rows = x.reshape(-1, x.shape[-1])
        each = jnp.ones(rows.shape[0]) if weight is None else weight.reshape(-1)
        kept, total = (each > 0)[:, None], jnp.sum(each)
        average = lambda y: jnp.sum(jnp.where(kept, y * each[:, None], 0.0), 0) / jnp.maximum(total, 1e-8)  # noqa: E731
        mean = average(rows)
        deviation = jnp.sqrt(average((rows - mean) ** 2) + self.eps)
        return mean, deviation, jnp.where(total > 0, self.momentum, 0.0)


def renormalise(warmup: int | None, train: bool, weight: Array | None) -> Callable[[Array], Array]:
    """What a module does after its input and each hidden layer, with a layer of its own each time; None: nothing."""

    def after(x: Array) -> Array:
        if warmup is None:
            return x
        if weight is None:
            return BatchRenorm(warmup)(x, train)
        each = weight.reshape(*weight.shape, *(1,) * (x.ndim - 1 - weight.ndim))  # for every pixel of an image
        return BatchRenorm(warmup)(x, train, jnp.broadcast_to(each, x.shape[:-1]))

    return after


def keep_statistics(params: PyTree, learned: PyTree) -> PyTree:
    """`params` with the statistics of `learned`; as they are where a network has none."""
    return params | {STATISTICS: learned[STATISTICS]} if STATISTICS in learned else params
