"""Exploration noise of continuous actions that hangs together from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.types import Array, Box, Key


class Noise(NamedTuple):
    """A recurrent carry: the noise of the step before, `[E, ...]`, and whether the episode had one, `[E]`."""

    value: Array
    begun: Array


def no_noise(space: Box, num_envs: int) -> Noise:
    """The carry of fresh episodes."""
    return Noise(jnp.zeros((num_envs, *space.shape)), jnp.zeros((num_envs,), bool))


def next_noise(carry: Noise, key: Key, correlation: Any) -> Noise:
    """Noise whose every value is standard normal, `x_t = c x_{t-1} + sqrt(1 - c^2) z_t` within an episode.

    The stationary discrete form of an Ornstein-Uhlenbeck process (Uhlenbeck and Ornstein 1930; as exploration,
    Lillicrap et al. 2016, section 7), so a policy explores further while each single action is distributed as ever.
    """
    z = jax.random.normal(key, carry.value.shape)
    begun = carry.begun.reshape(carry.begun.shape + (1,) * (z.ndim - 1))
    c = jnp.where(begun, correlation, 0.0)
    return Noise(c * carry.value + jnp.sqrt(1.0 - c**2) * z, jnp.ones_like(carry.begun))


def uniform(noise: Array) -> Array:
    """Standard normal numbers as uniform ones in [-1, 1]: `2 Phi(x) - 1 = erf(x / sqrt 2)`."""
    return jax.lax.erf(noise / jnp.sqrt(2.0))
