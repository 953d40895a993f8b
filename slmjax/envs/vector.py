"""Many copies of one environment that reset themselves in the same step, and the time limit.

An author writes `Env`: one environment, no batch, no auto-reset. Everything that the suites of the field do
differently from each other (when to reset, what a time limit means, which dtype comes out) is settled here, once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.maths.arrays import where
from slmjax.types import Array, Box, Dict, Env, Key, PyTree, Space, SpecError, Step, VectorEnv


class Limited(NamedTuple):
    """The state of an environment under a time limit: the environment's own, and the steps of this episode."""

    env: PyTree
    steps: Array


def limit(env: Env, max_t: int) -> Env:
    """`env`, truncated after `max_t` steps of an episode.

    An environment that already ends by then (`env.max_steps <= max_t`) is returned as it is, so nothing is counted
    twice.

    Raises:
        ValueError: `max_t` is below 1.
    """
    if max_t < 1:
        raise ValueError(f"max_t must be at least 1, got {max_t}")
    if env.max_steps is not None and env.max_steps <= max_t:
        return env

    def reset(key: Key) -> tuple[Limited, PyTree]:
        state, obs = env.reset(key)
        return Limited(state, jnp.zeros((), jnp.int32)), obs

    def step(key: Key, state: Limited, action: PyTree) -> tuple[Limited, PyTree, Array, Array, Array]:
        inner, obs, reward, terminated, truncated = env.step(key, state.env, action)
        steps = state.steps + 1
        return Limited(inner, steps), obs, reward, terminated, jnp.logical_or(truncated, steps >= max_t)

    draw = env.render
    render = None if draw is None else (lambda state: draw(state.env))
    return env._replace(reset=reset, step=step, max_steps=max_t, render=render)


def observe_only(env: Env, entries: tuple[int, ...]) -> Env:
    """`env`, whose observations are `entries` of its vectors: what the others say must be remembered or guessed.

    CartPole without entries 1 and 3, its velocities, is a common test of memory.

    Raises:
        SpecError: its observations are no vectors, or have no such entry, or one is named twice.
    """
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise SpecError(f"expected observations that are vectors, got {space}.", "env.observe")
    if not entries or max(entries) >= space.shape[0] or len(set(entries)) < len(entries):
        raise SpecError(f"expected some of 0 to {space.shape[0] - 1}, each once, got {list(entries)}.", "env.observe")
    some = np.array(entries)

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return state, obs[some]

    def step(key: Key, state: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Array, Array, Array]:
        state, obs, reward, terminated, truncated = env.step(key, state, action)
        return state, obs[some], reward, terminated, truncated

    seen = Box(space.low[some], space.high[some], (len(entries),), space.dtype, space.stored)
    return env._replace(reset=reset, step=step, observation_space=seen)


def vectorize(env: Env, num_envs: int, max_t: int | None = None) -> VectorEnv:
    """`num_envs` independent copies of `env` that reset themselves in the step that ends an episode.

    Observations arrive as the space says (`cast`), rewards as float32, `truncated` never with `terminated`. The
    result's `render(state, index=0)` draws environment `index` of a state `[E, ...]`.

    Args:
        env: what to copy.
        num_envs: `E`.
        max_t: a time limit in steps, on top of the environment's own.

    Raises:
        ValueError: `num_envs` or `max_t` is below 1.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    env = env if max_t is None else limit(env, max_t)

    def start(key: Key) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return strong(state), cast(env.observation_space, obs)

    def advance(key_step: Key, key_reset: Key, state: PyTree, action: PyTree) -> tuple[PyTree, Step]:
        after, obs, reward, terminated, truncated = env.step(key_step, state, action)
        final_obs = cast(env.observation_space, obs)
        terminated, truncated = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        done = terminated | truncated
        state, obs = where(done, start(key_reset), (strong(after), final_obs))
        reward = jnp.asarray(reward).astype(jnp.float32)
        return state, Step(obs, reward, terminated, truncated & ~terminated, final_obs, jnp.ones((), bool))

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        return jax.vmap(start)(jax.random.split(key, num_envs))

    def step(key: Key, state: PyTree, action: PyTree) -> tuple[PyTree, Step]:
        # Two vectors of keys and not one split in halves: XLA then drops the half that a deterministic step or reset
        # ignores (CartPole: 14.8 -> 12.4 us for 8 sessions x 16 environments). fold_in(key, n) is the key that
        # split(key, n + 1) would put last, so it meets none of the first n.
        steps = jax.random.split(key, num_envs)
        resets = jax.random.split(jax.random.fold_in(key, num_envs), num_envs)
        return jax.vmap(advance)(steps, resets, state, action)

    space = delivered(env.observation_space)
    return VectorEnv(reset, step, space, env.action_space, num_envs, env.max_steps, _render(env), always_valid=True)


def cast(space: Space, obs: PyTree) -> PyTree:
    """An observation in the dtype that agents get: uint8 stays (images), every other Box is float32, the rest int32."""
    if isinstance(space, Dict):
        return {name: cast(part, obs[name]) for name, part in space.spaces.items()}
    value = jnp.asarray(obs)
    if isinstance(space, Box):
        return value if value.dtype == jnp.uint8 else value.astype(jnp.float32)
    return value.astype(jnp.int32)


def delivered(space: Space) -> Space:
    """The space of what `cast` returns."""
    if isinstance(space, Dict):
        return Dict({name: delivered(part) for name, part in space.spaces.items()})
    if isinstance(space, Box) and np.dtype(space.dtype) != np.uint8:
        return Box(space.low, space.high, space.shape, jnp.float32, space.stored)
    return space


def strong(tree: PyTree) -> PyTree:
    """Leaves as arrays without weak types.

    A Python number in a state makes a weakly typed leaf that the first step turns into a strong one; `lax.scan`
    refuses such a carry.
    """
    return jax.tree.map(_strong, tree)


def _strong(leaf: Any) -> Array:
    value = jnp.asarray(leaf)
    return value if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value.astype(value.dtype)


def _render(env: Env) -> Any:
    draw = env.render
    if draw is None:
        return None

    def render(state: PyTree, index: int = 0) -> np.ndarray:
        return draw(jax.tree.map(lambda leaf: leaf[index], state))

    return render
