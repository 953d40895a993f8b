"""Replay for self-imitation: past steps with the return that followed them to the end of their episode.

The return of a step is known when its episode ends, which may be hundreds of steps later. So a step first waits in a
window of the newest `H` steps, longer than any episode; when it leaves the window its return is known, and it enters
the ring. Each update therefore moves one rollout from the window to the ring: two slices, whatever ended when.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.memory.windows import Window, append, empty, returns_to_go
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, Memory, PyTree, Rollout, SpecError


@hyper
class SILReplay:
    """`agent.memory` of name `SILReplay`."""

    name: str = key(default="SILReplay", doc="name of the memory")
    batch_size: int = key(default=64, doc="transitions of one batch", low=1)
    max_size: int = key(default=20_000, doc="transitions kept; rounded down to whole rollouts", low=1, high=2**31 - 1)


class Imitable(NamedTuple):
    """Steps `[rows, ...]` or a batch of them `[B, ...]`.

    Attributes:
        obs: what was acted on.
        raw: the draw that was played.
        to_go: discounted return from there to the end of the episode; one that a time limit cut ends at the limit.
        weight: 1, or 0 for what must not be learned from.
    """

    obs: PyTree
    raw: PyTree
    to_go: Array
    weight: Array


class Past(NamedTuple):
    """The memory: steps whose episode may still be under way, and those whose return is known."""

    window: Window
    ring: Imitable


def capacity(spec: SILReplay, rollout_size: int) -> int:
    """Rows of the ring: `max_size` rounded down to whole rollouts.

    Raises:
        SpecError: not even one fits.
    """
    if spec.max_size < rollout_size:
        message = f"expected at least one rollout of {rollout_size} transitions, got {spec.max_size}."
        raise SpecError(message, "agent.memory.max_size")
    return spec.max_size // rollout_size * rollout_size


def init(size: int, longest: int, steps: int, obs: PyTree, raw: Array) -> Past:
    """An empty memory of `size` rows for rollouts of `steps` steps and episodes of at most `longest`.

    `obs` and `raw` are one step's, `[E, ...]`: shapes and dtypes alone matter.
    """
    rows = lambda tree: jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), tree)  # noqa: E731
    ring = Imitable(rows(obs), rows(raw), jnp.zeros(size), jnp.zeros(size))
    return Past(empty(longest + steps, obs, raw), ring)


def add(past: Past, rollout: Rollout, raw: PyTree, frame: Any, gamma: Any) -> Past:
    """The memory with a rollout `[T, E, ...]` that began at `frame`."""
    steps, size = rollout.reward.shape[0], past.ring.weight.shape[0]
    window = append(past.window, rollout, raw)
    to_go = returns_to_go(window, gamma)
    leaving = Imitable(window.obs, window.raw, to_go, window.valid.astype(jnp.float32))
    flat = jax.tree.map(lambda x: x[:steps].reshape(-1, *x.shape[2:]), leaving)
    head = frame % size
    ring = jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, head, 0), past.ring, flat)
    return Past(window, ring)


def sample(spec: SILReplay, past: Past, rng: Key, batches: int, frame: Any, waiting: int) -> Array:
    """Rows of `batches` batches `[batches, batch_size]`, uniform over what has entered, after `frame` frames.

    `waiting` frames lie in the window: as many as the longest episode of every environment. While nothing has entered,
    the rows have no weight.
    """
    size = past.ring.weight.shape[0]
    known = jnp.clip(frame - waiting, 1, size)
    age = jax.random.randint(rng, (batches, spec.batch_size), 0, known, jnp.int32)
    return (frame - 1 - age) % size


SIL_REPLAY = Memory(SILReplay, "self-imitation")
