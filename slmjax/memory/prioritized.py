"""Prioritized experience replay (Schaul et al. 2016, proportional variant), on top of any ring of transitions.

    p_i = (|delta_i| + epsilon)^alpha        P(i) = p_i / sum_k p_k        w_i = (N P(i))^-beta / max_j w_j

A sum tree next to the ring holds `p_i`; it is 0 for rows that must not be drawn: never written, invented by a suite, or
with an n-step window that is not complete. New transitions enter with the largest priority so far. The weights divide
by the largest of their batch, so `N` and the sum cancel: `w_i = (min_j p_j / p_i)^beta`.

Draws are stratified, one from each of `B` equal parts of the sum (appendix B.2.1 of the paper): each transition is
drawn as often as its priority says, and a batch varies less than one of independent draws.

A row that begins a window of steps (`sequences.py`) has the priority of the whole window, `0.9 max_t |delta_t| + 0.1
mean_t |delta_t|` in place of `|delta|` (Kapturowski et al. 2019, section 2.3).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.memory import replay, sequences, sum_tree
from slmjax.memory.replay import Batch, Replay
from slmjax.memory.ring import Ring
from slmjax.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, Rollout, Store, VectorEnv

MOST_OF_A_WINDOW = 0.9  # weight of the largest error of a window; the mean has the rest


@hyper
class PrioritizedReplay(Replay):
    """`agent.memory` of name `PrioritizedReplay` and its kin."""

    name: str = key(default="PrioritizedReplay", doc="name of the memory")
    alpha: float = key(default=0.6, doc="how far priorities differ: 0 draws uniformly, 1 as errors say", low=0)
    epsilon: float = key(default=1e-4, doc="added to the size of an error, so that none is never drawn again", above=0)
    beta_spec: float | Schedule = key(
        default=Schedule(start_val=0.4, end_val=1.0, end_step=100_000.0),
        doc="how much of the bias the importance weights take away: 0 nothing, 1 all",
        low=0,
        high=1,
    )


class Prioritized(NamedTuple):
    """A ring and the priorities of its rows.

    Attributes:
        ring: the transitions.
        levels: their priorities `p_i`, as a sum tree.
        largest: the largest `p_i` so far.
    """

    ring: Ring
    levels: sum_tree.Levels
    largest: Array


class WeightedPicks(NamedTuple):
    """Rows and their importance weights, `[batches, B]` each."""

    row: Array
    importance: Array


def importance(priority: Array, beta: Any) -> Array:
    """`(min_j p_j / p_i)^beta` over the last axis; rows of priority 0 count for nothing and weigh 1."""
    drawn = priority > 0
    smallest = jnp.min(jnp.where(drawn, priority, jnp.inf), -1, keepdims=True)
    return jnp.where(drawn, smallest / jnp.where(drawn, priority, 1.0), 1.0) ** beta


def of_windows(spec: Replay, error: Array) -> Array:
    """Errors of windows `[..., L, B]` as one number each `[..., B]`; those of a burn-in are 0."""
    size = jnp.abs(error)
    return MOST_OF_A_WINDOW * jnp.max(size, -2) + (1.0 - MOST_OF_A_WINDOW) * jnp.sum(size, -2) / spec.seq_len


def activate(spec: Replay, state: Prioritized, *, added: int, num_envs: int, frame: Any, young: int) -> sum_tree.Levels:
    """Priorities after `added` frames up to `frame` were written into the ring; a row is complete at the age `young`.

    A row's priority is a function of its age: 0 until its window is complete, the largest for the `added` rows whose
    window just became so, then its own, and 0 again when something it needs is about to be overwritten. Ages change
    only around the write head, and those rows lie side by side, but for a wrap at either end of the ring.
    """
    rows = state.ring.reward.shape[0]
    old = (spec.stack_len - 1) * num_envs
    span = min(added + young + old, rows)

    def put(leaves: Array, at: Any, size: int) -> Array:
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, at, size)  # noqa: E731
        age = (frame - 1 - at - jnp.arange(size)) % rows
        able = replay.learnable(spec, cut(state.ring.valid), cut(state.ring.truncated))
        fresh = jnp.where(able, state.largest, 0.0)
        value = jnp.where(age < young + added, fresh, cut(leaves))
        usable = (age >= young) & (age < replay.whole(spec, rows, num_envs, frame))
        return jax.lax.dynamic_update_slice_in_dim(leaves, jnp.where(usable, value, 0.0), at, 0)

    spans = [(jnp.clip((frame - added) % rows - young, 0, rows - span), span), (rows - young, young), (0, old)]
    spans = [(at, size) for at, size in (spans if span < rows else spans[:1]) if size]
    leaves = state.levels[0]
    for at, size in spans:
        leaves = put(leaves, at, size)
    return sum_tree.renew(state.levels, leaves, *spans)


def _make(spec: PrioritizedReplay, env: VectorEnv, rollout_size: int, *, windows: bool) -> Store:
    """A prioritized ring for one agent, whose rollouts are `rollout_size = T x E` transitions.

    Raises:
        SpecError: see `replay.make` and `sequences.make`.
    """
    kind: Any = sequences if windows else replay
    store: Store = kind.make(spec, env, rollout_size)
    num_envs, first, young = env.num_envs, replay.newest(spec, env.num_envs), kind.lag(spec, env.num_envs)

    def init() -> Prioritized:
        return Prioritized(store.init(), sum_tree.init(store.capacity), jnp.ones(()))

    def add(state: Prioritized, rollout: Rollout, gamma: Any, frame: Any) -> Prioritized:
        state = state._replace(ring=store.add(state.ring, rollout, gamma, frame))
        frame = frame + rollout_size
        levels = activate(spec, state, added=rollout_size, num_envs=num_envs, frame=frame, young=young)
        return state._replace(levels=levels)

    def sample(spec: PrioritizedReplay, state: Prioritized, rng: Key, batches: int, frame: Any) -> WeightedPicks:
        spread_key, draw_key, plain_key = jax.random.split(rng, 3)
        count = spec.batch_size - first
        quantile = (jnp.arange(count) + jax.random.uniform(spread_key, (batches, count))) / count
        drawn = sum_tree.draw(state.levels, draw_key, quantile)
        plain = store.sample(spec, state.ring, plain_key, batches, frame)
        # Before the first window is complete no row has a priority; then rows are drawn as `Replay` draws them.
        drawn = jnp.where(sum_tree.total(state.levels) > 0, drawn, plain[:, first:])
        row = jnp.concatenate([plain[:, :first], drawn], 1)
        # The newest are there whatever their priority, so there is no bias to take from them.
        weight = importance(state.levels[0][row], spec.beta_spec)
        return WeightedPicks(row, jnp.where(jnp.arange(spec.batch_size) < first, 1.0, weight))

    def gather(spec: PrioritizedReplay, state: Prioritized, pick: WeightedPicks, gamma: Any, frame: Any) -> Batch:
        batch: Batch = store.gather(spec, state.ring, pick.row, gamma, frame)
        return batch._replace(importance=jnp.broadcast_to(pick.importance, batch.weight.shape))

    def rate(spec: PrioritizedReplay, state: Prioritized, picks: WeightedPicks, error: Array) -> Prioritized:
        # Nothing was added since these rows were drawn, so they still hold what the errors are about. What has no
        # priority must not get one: it was drawn only because nothing had any.
        error = of_windows(spec, error) if windows else error
        priority = (jnp.abs(error) + spec.epsilon) ** spec.alpha
        priority = jnp.where(state.levels[0][picks.row] > 0, priority, 0.0)
        levels = sum_tree.write(state.levels, picks.row, priority)
        return state._replace(levels=levels, largest=jnp.maximum(state.largest, jnp.max(priority)))

    return Store(init, add, sample, gather, store.capacity, rate)


make: Callable[[PrioritizedReplay, VectorEnv, int], Store] = partial(_make, windows=False)
make_windows: Callable[[PrioritizedReplay, VectorEnv, int], Store] = partial(_make, windows=True)
