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

from slmjax.maths.arrays import same_shape
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
