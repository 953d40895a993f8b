"""Mathematics of learned return distributions. Each loss returns one number a transition, `[B]`."""

from typing import Any

import jax
import jax.numpy as jnp

from slmjax.maths.arrays import same_shape
from slmjax.maths.losses import huber
from slmjax.types import Array


def support(v_min: Any, v_max: Any, n_atoms: int) -> Array:
    """The atoms of a categorical distribution, evenly spaced from `v_min` to `v_max`, `[N]`."""
    return jnp.linspace(v_min, v_max, n_atoms)


def project(values: Array, probs: Array, atoms: Array) -> Array:
    """A distribution over any `values [B, M]` with `probs [B, M]` as one over the even `atoms [N]`, `[B, N]`.

    Each value, clipped to the support, gives its probability to the two atoms around it in proportion to its nearness:
    `sum_j [1 - |values_j - atoms_i| / delta]_0^1 probs_j` (Bellemare et al. 2017, equation 7). The mean is kept, but
    for what was clipped. Written as a dense sum: a value that falls on an atom needs no special case.
    """
    same_shape(values, probs)
    delta = atoms[1] - atoms[0]
    clipped = jnp.clip(values, atoms[0], atoms[-1])
    share = jnp.clip(1.0 - jnp.abs(clipped[:, None, :] - atoms[None, :, None]) / delta, 0.0, 1.0)
    return jnp.sum(share * probs[:, None, :], -1)


def cross_entropy(target: Array, logits: Array) -> Array:
    """`-sum_i target_i log softmax(logits)_i` for distributions `[B, N]` (Bellemare et al. 2017, algorithm 1)."""
    same_shape(target, logits)
    return -jnp.sum(target * jax.nn.log_softmax(logits), -1)


def entropy(probs: Array) -> Array:
    """`-sum_i p_i log p_i` of distributions `[B, N]`, 0 log 0 being 0."""
    return -jnp.sum(jax.scipy.special.xlogy(probs, probs), -1)


def midpoints(n_quantiles: int) -> Array:
    """The levels `(2 i - 1) / 2 N`, i from 1 to N, at which quantiles are learned (Dabney et al. 2018, lemma 2)."""
    return (jnp.arange(n_quantiles) + 0.5) / n_quantiles


def quantile_huber(quantiles: Array, levels: Array, targets: Array, kappa: Any) -> Array:
    """Quantile Huber loss of `quantiles [B, N]` at `levels [N]` against samples `targets [B, M]`, `[B]`.

    `sum_i mean_j |level_i - 1{u_ij < 0}| L_kappa(u_ij) / kappa` with `u_ij = targets_j - quantiles_i` and `L_kappa` the
    Huber loss (Dabney et al. 2018, equation 10; the division by kappa, which makes the loss of `kappa` 0 that of
    quantile regression, is Dabney et al. 2018b, equation 3).
    """
    error = targets[:, None, :] - quantiles[:, :, None]
    bounded = jnp.maximum(kappa, 1e-6)
    weight = jnp.abs(levels[None, :, None] - (error < 0))
    return jnp.sum(jnp.mean(weight * huber(error, bounded) / bounded, -1), -1)
