"""Exploration on top of action scores: `default`, `random`, `epsilon_greedy`, `boltzmann`.

Each takes scores `[E, A]` and gives int32 actions `[E]`, with draws of its own for each environment. A score of minus
infinity is an action that must not be taken (`policies.masks`): no policy ever picks it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slmjax.types import Array, Key

Explore = Callable[[Array, Any, Key], Array]


def greedy_action(scores: Array) -> Array:
    """The best action of each environment; the first one on a tie."""
    return jnp.argmax(scores, -1).astype(jnp.int32)


def default(scores: Array, explore_var: Any, key: Key) -> Array:
    """The best action: no exploration."""
    del explore_var, key
    return greedy_action(scores)


def random(scores: Array, explore_var: Any, key: Key) -> Array:
    """Uniform valid actions."""
    del explore_var
    return _valid_action(scores, jax.random.uniform(key, scores.shape[:-1]))


def epsilon_greedy(scores: Array, explore_var: Any, key: Key) -> Array:
    """With probability `explore_var` a uniform valid action, else the best; one draw for each environment.

    One uniform number decides both: below epsilon it is, rescaled, uniform again and picks the action. An epsilon
    beyond [0, 1] is the nearer of the two.
    """
    epsilon = jnp.clip(explore_var, 0.0, 1.0)
    draw = jax.random.uniform(key, scores.shape[:-1])
    picked = _valid_action(scores, draw / jnp.maximum(epsilon, 1e-8))
    return jnp.where(draw < epsilon, picked, greedy_action(scores))


def boltzmann(scores: Array, explore_var: Any, key: Key) -> Array:
    """Actions with probability `softmax(scores / explore_var)`; `explore_var` is the temperature."""
    return jax.random.categorical(key, scores / jnp.maximum(explore_var, 1e-8)).astype(jnp.int32)


def _valid_action(scores: Array, share: Array) -> Array:
    # The valid action below which a `share` of them lies; uniform if the share, [E] in [0, 1), is.
    rank = jnp.cumsum(~jnp.isneginf(scores), -1)
    count = rank[..., -1]
    place = jnp.minimum((share * count).astype(jnp.int32), count - 1)
    return jnp.argmax(rank > place[..., None], -1).astype(jnp.int32)


POLICIES: dict[str, Explore] = {
    "default": default,
    "random": random,
    "epsilon_greedy": epsilon_greedy,
    "boltzmann": boltzmann,
}
