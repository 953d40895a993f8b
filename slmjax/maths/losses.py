"""Losses, in rlax's grammar. Each returns one number a transition (`[B]` or `[T, E]`); the caller averages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slmjax.maths.arrays import pick, same_shape
from slmjax.types import Array

Elementwise = Callable[[Array], Array]


def td_error(q_tm1: Array, a_tm1: Array, target_tm1: Array) -> Array:
    """`stop_gradient(target) - q(s, a)` for action values `[..., A]`, actions `[...]` and targets `[...]`."""
    same_shape(a_tm1, target_tm1, q_tm1[..., 0])
    return jax.lax.stop_gradient(target_tm1) - pick(q_tm1, a_tm1)


def q_target(r_t: Array, discount_t: Array, q_t: Array, policy_t: Array) -> Array:
    """`r_t + discount_t sum_a policy_t(a) q_t(a)` for `[..., A]`; an action of probability 0 adds 0.

    The probabilities make the method: all on the action that the target network likes best is Q-learning (Mnih et al.
    2015), that the online network likes best is double Q-learning (van Hasselt et al. 2016, equation 4), that was
    drawn is SARSA (Rummery & Niranjan 1994).
    """
    same_shape(r_t, discount_t, q_t[..., 0])
    same_shape(q_t, policy_t)
    return r_t + discount_t * jnp.sum(jnp.where(policy_t > 0, policy_t * q_t, 0.0), -1)


def clipped_surrogate(log_ratio: Array, advantage: Array, clip_eps: Any) -> Array:
    """PPO's pessimistic loss `-min(rho A, clip(rho, 1 - eps, 1 + eps) A)` (Schulman et al. 2017, equation 7)."""
    same_shape(log_ratio, advantage)
    rho = jnp.exp(log_ratio)
    return -jnp.minimum(rho * advantage, jnp.clip(rho, 1.0 - clip_eps, 1.0 + clip_eps) * advantage)


def clipped_value(value: Array, old_value: Array, target: Array, clip_eps: Any, elementwise: Elementwise) -> Array:
    """The larger of the plain value loss and that of a prediction moved by at most `clip_eps` from the old one."""
    same_shape(value, old_value, target)
    moved = old_value + jnp.clip(value - old_value, -clip_eps, clip_eps)
    return jnp.maximum(elementwise(value - target), elementwise(moved - target))


def huber(error: Array, delta: Any = 1.0) -> Array:
    """`error^2 / 2` within `delta` of zero, linear beyond (Huber 1964)."""
    size = jnp.abs(error)
    inner = jnp.minimum(size, delta)
    return 0.5 * inner**2 + delta * (size - inner)


# What `net.loss_spec` names: a loss of each error on its own.
ELEMENTWISE: dict[str, Elementwise] = {
    "MSELoss": jnp.square,
    "SmoothL1Loss": huber,
    "HuberLoss": huber,
    "L1Loss": jnp.abs,
}


def weighted_mean(x: Array, weight: Array) -> Array:
    """Mean of `x` over the entries with weight; 0 if there are none. Others may hold anything. Same shapes."""
    same_shape(x, weight)
    return jnp.sum(jnp.where(weight > 0, x * weight, 0.0)) / jnp.maximum(jnp.sum(weight), 1e-8)


def standardize(x: Array, weight: Array) -> Array:
    """`(x - mean) / std` by the mean and deviation of the entries with weight."""
    mean = weighted_mean(x, weight)
    deviation = jnp.sqrt(weighted_mean((x - mean) ** 2, weight))
    return (x - mean) / (deviation + 1e-8)
