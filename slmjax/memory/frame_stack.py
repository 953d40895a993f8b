"""Frame stacks: the last frames of an observation joined, as a network sees them.

A ring stores each frame once and joins frames when it is read; an agent that acts keeps the last ones as its *carry*.
Both come through `FrameStack.join`, so acting and learning see the same numbers. Before the first frame of an episode
there are zeros: the carry of a fresh episode is then a constant, which the session puts in wherever an episode ended,
and nobody must know there what the first frame will be (to repeat it would need one).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.maths.arrays import where
from slmjax.memory.keys import MemoryKeys
from slmjax.types import Array, Box, Dict, PyTree, Rollout, Space, SpecError


class FrameStack(NamedTuple):
    """How observations become what a network sees.

    Attributes:
        space: the space of what it sees.
        length: frames of a stack; with 1 it sees observations as they are.
        carry: `(num_envs) -> frames [E, length - 1, ...]` before an episode's first, all zero; `()` for one frame.
        push: `(obs [E, ...], carry) -> (stack [E, ...], carry)`: the stack whose newest frame is `obs`, and the frames
            that the next step needs.
        join: `(frames [..., length, *obs]) -> stack [...]`, the oldest frame first.
    """

    space: Any  # a Space
    length: int
    carry: Callable[[int], PyTree]
    push: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    join: Callable[[PyTree], PyTree]


def frame_stack(spec: Any, space: Space) -> FrameStack:
    """The stack that `agent.memory` describes; of one frame where it has no such keys.

    Raises:
        SpecError: observations that cannot be joined.
    """
    spec = spec if isinstance(spec, MemoryKeys) else MemoryKeys()
    before = spec.stack_len - 1

    def join(frames: PyTree) -> PyTree:
        return _map_space(lambda part, x: _join(spec, part, x), space, frames)

    def carry(num_envs: int) -> PyTree:
        if not before:
            return ()
        return _map_space(lambda part: jnp.zeros((num_envs, before, *part.shape), part.dtype), space)

    def push(obs: PyTree, carry: PyTree) -> tuple[PyTree, PyTree]:
        if not before:
            return obs, carry
        frames = jax.tree.map(lambda old, new: jnp.concatenate([old, new[:, None]], 1), carry, obs)
        return join(frames), jax.tree.map(lambda x: x[:, 1:], frames)

    return FrameStack(_stacked(spec, space), spec.stack_len, carry, push, join)


def stack_rollout(stack: FrameStack, rollout: Rollout, carry: PyTree) -> tuple[PyTree, PyTree]:
    """What a network saw at each step of a rollout, and what it would see at the true successor, `[T, E, ...]` each.

    Args:
        stack: the stack that acted.
        rollout: `[T, E, ...]`.
        carry: the stack's carry at its first step (that part of `rollout.carry`).
    """
    fresh = stack.carry(rollout.reward.shape[1])

    def step(carry: PyTree, now: tuple[PyTree, PyTree, Array]) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        obs, final_obs, resets = now
        x, carry = stack.push(obs, carry)
        final_x, _ = stack.push(final_obs, carry)
        return where(resets, fresh, carry), (x, final_x)

    return jax.lax.scan(step, carry, (rollout.obs, rollout.final_obs, rollout.resets))[1]


def stack_rows(ring: Any, index: Array, length: int, *, num_envs: int, frame: Any) -> PyTree:
    """The last `length` frames at rows `index [...]` of a ring, `[..., length, *obs]`, the oldest first.

    Zeros stand for frames before the episode's first and for those that have been overwritten.

    Args:
        ring: `memory.ring.Ring` of arrays `[rows, ...]`.
        index: rows.
        length: how many frames.
        num_envs: `E`, the distance between two frames of one environment.
        frame: frames written so far.
    """
    rows = ring.reward.shape[0]
    age = (frame - 1 - index) % rows
    written = jnp.minimum(frame, rows)
    same = jnp.ones(index.shape, bool)
    frames = [jax.tree.map(lambda x: x[index], ring.obs)]
    zeros = jax.tree.map(jnp.zeros_like, frames[0])
    for k in range(1, length):
        here = (index - k * num_envs) % rows
        same = same & ~ring.resets(here) & (age + k * num_envs < written)
        frames.append(where(same, jax.tree.map(lambda x: x[here], ring.obs), zeros))  # noqa: B023
    return jax.tree.map(lambda *x: jnp.stack(x[::-1], index.ndim), *frames)


def _map_space(function: Callable, space: Space, *values: PyTree) -> PyTree:
    """`function(part, *value)` for each part of a space that is no Dict."""
    if isinstance(space, Dict):
        parts = space.spaces.items()
        return {name: _map_space(function, part, *(value[name] for value in values)) for name, part in parts}
    return function(space, *values)


def _join(spec: MemoryKeys, space: Any, frames: Array) -> Array:
    axis = frames.ndim - len(space.shape) - 1  # that of the frames
    if spec.stack_len == 1:
        return frames.squeeze(axis)
    if spec.stack_op == "stack":
        return jnp.moveaxis(frames, axis, -1)
    x = jnp.moveaxis(frames, axis, -2)
    return x.reshape(*x.shape[:-2], -1)


def _stacked(spec: MemoryKeys, space: Space) -> Space:
    if spec.stack_len == 1:
        return space
    if isinstance(space, Dict):
        return Dict({name: _stacked(spec, part) for name, part in space.spaces.items()})
    if not isinstance(space, Box):
        raise SpecError(f"expected observations that are a Box, got {space}.", "agent.memory.stack_len")
    if spec.stack_op == "concat" and not space.shape:
        raise SpecError(f"expected observations with an axis to join, got {space}.", "agent.memory.stack_op")
    join = np.stack if spec.stack_op == "stack" else np.concatenate
    # Zeros stand before an episode's first frame.
    bounds = np.minimum(space.low, 0), np.maximum(space.high, 0)
    low, high = (join([bound] * spec.stack_len, -1) for bound in bounds)
    return Box(low, high, low.shape, space.dtype)
