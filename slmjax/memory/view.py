"""What a network is shown of an observation: the last frames joined, pixels scaled.

A ring stores each frame once and joins frames when it is read; an agent that acts keeps the last ones as its *carry*.
Both come through `View.show`, so acting and learning see the same numbers. Before the first frame of an episode there
are zeros: the carry of a fresh episode is then a constant, which the session puts in wherever an episode ended, and
nobody must know there what the first frame will be (to repeat it would need one).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Box, Dict, PyTree, Rollout, Space, SpecError


@hyper
class MemoryKeys:
    """Keys of every memory; a memory's own dataclass extends this one."""

    name: str = key(default="", doc="name of the memory")
    stack_len: int = key(default=1, doc="frames that the network sees at once", low=1)
    stack_op: str = key(
        default="stack",
        doc="how frames are joined, the oldest first: on a new last axis, or along the last one",
        choices=("stack", "concat"),
    )
    obs_op: str = key(default="none", doc="image: bytes become x / 255 - 0.5", choices=("none", "image"))
    reward_op: str = key(default="none", doc="sign: learn from the signs of rewards", choices=("none", "sign"))


class View(NamedTuple):
    """How observations reach a network.

    Attributes:
        space: the space of what it gets.
        carry: `(num_envs) -> frames [E, stack_len - 1, ...]` before an episode's first, all zero; `()` for one frame.
        see: `(obs [E, ...], carry) -> (x [E, ...], carry)`: what to show for the newest frame, and the frames that the
            next step needs.
        show: `(frames [..., stack_len, *obs]) -> x [...]`, the oldest frame first.
        plain: observations are shown as they are.
    """

    space: Any  # a Space
    carry: Callable[[int], PyTree]
    see: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    show: Callable[[PyTree], PyTree]
    plain: bool


def make_view(spec: Any, space: Space) -> View:
    """The view that `agent.memory` describes; observations as they are where it has no such keys.

    Raises:
        SpecError: observations that cannot be joined or scaled.
    """
    spec = spec if isinstance(spec, MemoryKeys) else MemoryKeys()
    before = spec.stack_len - 1

    def show(frames: PyTree) -> PyTree:
        return _map_space(lambda part, x: _show(spec, part, x), space, frames)

    def carry(num_envs: int) -> PyTree:
        if not before:
            return ()
        return _map_space(lambda part: jnp.zeros((num_envs, before, *part.shape), part.dtype), space)

    def see(obs: PyTree, carry: PyTree) -> tuple[PyTree, PyTree]:
        newest = jax.tree.map(lambda x: x[:, None], obs)
        if not before:
            return show(newest), carry
        frames = jax.tree.map(lambda old, new: jnp.concatenate([old, new], 1), carry, newest)
        return show(frames), jax.tree.map(lambda x: x[:, 1:], frames)

    return View(_shown(spec, space), carry, see, show, spec.stack_len == 1 and spec.obs_op == "none")


def learned_reward(spec: Any, rollout: Rollout) -> Array:
    """The rewards that an agent learns from, by `reward_op`; what is reported stays raw.

    A row that a suite invented has none, whatever it says: weighed by 0, a NaN would still be one in every gradient.
    """
    reward = jnp.where(rollout.valid, rollout.reward, 0.0)
    return jnp.sign(reward) if isinstance(spec, MemoryKeys) and spec.reward_op == "sign" else reward


def boundary(rows: Any, at: Any = ...) -> Array:
    """Where the next row of an environment belongs to another episode: `rows` is a `Rollout` or a ring, `at` an index.

    A row that a suite invented to reset itself belongs to none, and a row never written is such a row.
    """
    return rows.terminated[at] | rows.truncated[at] | ~rows.valid[at]


def stack_rollout(view: View, rollout: Rollout, carry: PyTree) -> tuple[PyTree, PyTree]:
    """What was shown at each step of a rollout, and what its true successor would have shown, `[T, E, ...]` each.

    Args:
        view: the view that acted.
        rollout: `[T, E, ...]`.
        carry: the view's carry at its first step (that part of `rollout.carry`).
    """
    fresh = view.carry(rollout.reward.shape[1])

    def step(carry: PyTree, now: tuple[PyTree, PyTree, Array]) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        obs, final_obs, ended = now
        x, carry = view.see(obs, carry)
        final_x, _ = view.see(final_obs, carry)
        return jax.tree.map(lambda c, f: jnp.where(_expand(ended, c), f, c), carry, fresh), (x, final_x)

    return jax.lax.scan(step, carry, (rollout.obs, rollout.final_obs, boundary(rollout)))[1]


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
    for k in range(1, length):
        here = (index - k * num_envs) % rows
        same = same & ~boundary(ring, here) & (age + k * num_envs < written)
        frames.append(_keep(same, jax.tree.map(lambda x: x[here], ring.obs)))  # noqa: B023
    return jax.tree.map(lambda *x: jnp.stack(x[::-1], index.ndim), *frames)


def _keep(flag: Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.where(_expand(flag, x), x, jnp.zeros_like(x)), tree)


def _expand(flag: Array, like: Array) -> Array:
    return flag.reshape(flag.shape + (1,) * (like.ndim - flag.ndim))


def _map_space(function: Callable, space: Space, *values: PyTree) -> PyTree:
    """`function(part, *value)` for each part of a space that is no Dict."""
    if isinstance(space, Dict):
        parts = space.spaces.items()
        return {name: _map_space(function, part, *(value[name] for value in values)) for name, part in parts}
    return function(space, *values)


def _show(spec: MemoryKeys, space: Any, frames: Array) -> Array:
    axis = frames.ndim - len(space.shape) - 1  # that of the frames
    if spec.stack_len == 1:
        x = frames.squeeze(axis)
    elif spec.stack_op == "stack":
        x = jnp.moveaxis(frames, axis, -1)
    else:
        x = jnp.moveaxis(frames, axis, -2)
        x = x.reshape(*x.shape[:-2], -1)
    return x.astype(jnp.float32) / 255.0 - 0.5 if spec.obs_op == "image" else x


def _shown(spec: MemoryKeys, space: Space) -> Space:
    if isinstance(space, Dict):
        return Dict({name: _shown(spec, part) for name, part in space.spaces.items()})
    if spec.stack_len == 1 and spec.obs_op == "none":
        return space
    if not isinstance(space, Box):
        named = "stack_len" if spec.stack_len > 1 else "obs_op"
        raise SpecError(f"expected observations that are a Box, got {space}.", f"agent.memory.{named}")
    if spec.stack_len > 1 and spec.stack_op == "concat" and not space.shape:
        raise SpecError(f"expected observations with an axis to join, got {space}.", "agent.memory.stack_op")
    low, high, dtype = space.low, space.high, space.dtype
    if spec.stack_len > 1:  # zeros stand before an episode's first frame
        join = np.stack if spec.stack_op == "stack" else np.concatenate
        low, high = (join([bound] * spec.stack_len, -1) for bound in (np.minimum(low, 0), np.maximum(high, 0)))
    if spec.obs_op == "image":
        if np.dtype(dtype) != np.uint8:
            raise SpecError(f"expected observations of bytes (uint8), got {space}.", "agent.memory.obs_op")
        low, high, dtype = low / 255.0 - 0.5, high / 255.0 - 0.5, jnp.float32
    return Box(low, high, low.shape, dtype)
