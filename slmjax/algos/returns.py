"""Returns and advantages over rollouts `[T, E]`, in rlax's grammar (`r_t`, `discount_t`, `v_tm1`, `v_t`).

`discount_t` carries gamma and termination: gamma where the process went on, 0 where it terminated. A truncated step
keeps its discount and bootstraps from `v_t`, the value of its true successor; only the *recursion* over later steps
is cut there, because the next row belongs to another episode.
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
        v_t: values of their true successors (`final_obs`, not the observation after an auto-reset).
        ended: terminated or truncated; cuts the recursion.
        lam: lambda.
    """
    same_shape(r_t, discount_t, v_tm1, v_t, ended)
    delta = r_t + discount_t * v_t - v_tm1
    decay = discount_t * lam * (1.0 - ended)

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        advantage = now[0] + now[1] * later
        return advantage, advantage

    _, advantages = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True, unroll=8)
    return advantages
