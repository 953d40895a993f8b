"""Returns and advantages over rollouts `[T, E]`, in rlax's grammar (`r_t`, `discount_t`, `v_tm1`, `v_t`).

`discount_t` carries gamma and termination: gamma where the process went on, 0 where it terminated. A truncated step
keeps its discount and bootstraps from `v_t`, the value of its true successor (`final_obs`, never the observation after
an auto-reset); only the *recursion* over later steps is cut there, because the next row belongs to another episode.
`ended` says where: terminated or truncated. The last row of a rollout bootstraps likewise.

Nothing here stops gradients; who makes a target of a return does.
"""

from typing import Any

import jax
import jax.numpy as jnp

from slmjax.algos.losses import same_shape
from slmjax.types import Array


def discounts(terminated: Array, gamma: Any) -> Array:
    """`gamma (1 - terminated)`, the shape of `terminated`."""
    return gamma * (1.0 - terminated)


def gae(r_t: Array, discount_t: Array, v_tm1: Array, v_t: Array, ended: Array, lam: Any) -> Array:
    """Generalised advantage estimates `[T, E]` (Schulman et al. 2016, equation 16).

    `delta_t = r_t + discount_t v_t - v_tm1` and `A_tm1 = delta_t + discount_t lambda (1 - ended) A_t`.

    Args:
        r_t: rewards.
        discount_t: see the top of this file.
        v_tm1: values of the observations that were acted on.
        v_t: values of their true successors.
        ended: terminated or truncated; cuts the recursion.
        lam: lambda.
    """
    same_shape(r_t, discount_t, v_tm1, v_t, ended)
    delta = r_t + discount_t * v_t - v_tm1
    return _accumulate(delta, discount_t * lam * (1.0 - ended))


def lambda_returns(r_t: Array, discount_t: Array, v_t: Array, ended: Array, lam: Any) -> Array:
    """Lambda-returns `[T, E]` (Sutton & Barto 2018, equation 12.18).

    `G_tm1 = r_t + discount_t ((1 - lambda_t) v_t + lambda_t G_t)` with `lambda_t` 0 where the episode or the rollout
    ends, else lambda.
    """
    same_shape(r_t, discount_t, v_t, ended)
    lambda_t = lam * _goes_on(ended)
    return _accumulate(r_t + discount_t * (1.0 - lambda_t) * v_t, discount_t * lambda_t)


def q_lambda(r_t: Array, discount_t: Array, q_t: Array, ended: Array, lam: Any) -> Array:
    """Peng's Q(lambda): lambda-returns with the best action's value, from action values `q_t [T, E, A]`.

    The trace is not cut after an exploring action (Peng & Williams 1996); PQN learns from it (Gallici et al. 2024).
    """
    return lambda_returns(r_t, discount_t, jnp.max(q_t, -1), ended, lam)


def n_step_returns(r_t: Array, discount_t: Array, v_t: Array, ended: Array, n: int) -> Array:
    """n-step returns `[T, E]`, of fewer steps where the episode or the rollout ends (Sutton & Barto 2018, eq. 7.1).

    `G^1_tm1 = r_t + discount_t v_t`, and `G^k_tm1 = r_t + discount_t G^(k-1)_t`, or `v_t` in place of that return where
    something ends.

    Raises:
        ValueError: `n` is below 1.
    """
    same_shape(r_t, discount_t, v_t, ended)
    if n < 1:
        raise ValueError(f"expected n of at least 1, got {n}.")
    over = _goes_on(ended) == 0.0

    def longer(_: Any, shorter: Array) -> Array:
        return r_t + discount_t * jnp.where(over, v_t, jnp.roll(shorter, -1, 0))

    # Beyond T steps nothing grows: every window ends with the rollout.
    longest: Array = jax.lax.fori_loop(1, min(n, len(r_t)), longer, r_t + discount_t * v_t)
    return longest


def vtrace(
    r_t: Array,
    discount_t: Array,
    v_tm1: Array,
    v_t: Array,
    ended: Array,
    rho_tm1: Array,
    *,
    lam: Any = 1.0,
    clip_rho: Any = 1.0,
    clip_c: Any = 1.0,
) -> Array:
    """V-trace errors `v_tm1^target - v_tm1`, `[T, E]` (Espeholt et al. 2018, equation 1 and remark 2).

    `delta_t = min(clip_rho, rho_tm1) (r_t + discount_t v_t - v_tm1)` and
    `error_tm1 = delta_t + discount_t lambda min(clip_c, rho_tm1) (1 - ended) error_t`.

    Args:
        r_t: rewards.
        discount_t: see the top of this file.
        v_tm1: values of the observations that were acted on.
        v_t: values of their true successors.
        ended: terminated or truncated; cuts the recursion.
        rho_tm1: ratios `pi(a_tm1) / mu(a_tm1)` of the actions taken in these rows.
        lam: lambda.
        clip_rho: largest weight of a temporal difference.
        clip_c: largest weight of what follows.
    """
    same_shape(r_t, discount_t, v_tm1, v_t, ended, rho_tm1)
    delta = jnp.minimum(clip_rho, rho_tm1) * (r_t + discount_t * v_t - v_tm1)
    return _accumulate(delta, discount_t * lam * jnp.minimum(clip_c, rho_tm1) * (1.0 - ended))


def retrace(
    r_t: Array, discount_t: Array, q_tm1: Array, v_t: Array, ended: Array, rho_tm1: Array, *, lam: Any = 1.0
) -> Array:
    """Retrace(lambda) returns `[T, E]` for the action values of the actions taken (Munos et al. 2016, equation 4).

    `G_tm1 = r_t + discount_t (v_t + c_t (G_t - q_t))`, `c_t = lambda min(1, rho_t)`, where `q_t` and `rho_t` are those
    of the next row, and `c_t` is 0 where the episode or the rollout ends.

    Args:
        r_t: rewards.
        discount_t: see the top of this file.
        q_tm1: values of the actions taken in these rows.
        v_t: `sum_a pi(a) q(a)` at their true successors.
        ended: terminated or truncated; cuts the recursion.
        rho_tm1: ratios `pi(a_tm1) / mu(a_tm1)` of the actions taken in these rows.
        lam: lambda.
    """
    same_shape(r_t, discount_t, q_tm1, v_t, ended, rho_tm1)
    c_t = lam * jnp.minimum(1.0, jnp.roll(rho_tm1, -1, 0)) * _goes_on(ended)
    return _accumulate(r_t + discount_t * (v_t - c_t * jnp.roll(q_tm1, -1, 0)), discount_t * c_t)


def _goes_on(ended: Array) -> Array:
    # 1.0 where the next row is the next step of the same episode; the last row has no next row.
    last = (jnp.arange(len(ended)) == len(ended) - 1).reshape(-1, *(1,) * (ended.ndim - 1))
    return 1.0 - (ended.astype(bool) | last)


def _accumulate(delta: Array, decay: Array) -> Array:
    # x_t = delta_t + decay_t x_(t+1), backwards along axis 0.
    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        total = now[0] + now[1] * later
        return total, total

    return jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True, unroll=8)[1]
