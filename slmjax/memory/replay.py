"""Uniform experience replay: a flat ring of transitions, written by one slice and read by one index.

The ring is a pytree of arrays `[capacity, ...]` and nothing else. Where to write follows from the frame, which is one
number for the whole population, so under `vmap` a write stays a slice (a head kept in the state would turn it into a
scatter, and a ring of `[T, E, ...]` is copied whole by XLA in every iteration).

Row `i` of the ring holds frame `i` (modulo the capacity): the transitions of one step of `E` environments lie side by
side, and the next transition of the same environment lies `E` rows further.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.spaces import zeros
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, Memory, PyTree, Rollout, SpecError, Store, VectorEnv


@hyper
class Replay:
    """`agent.memory` of name `Replay`."""

    name: str = key(default="Replay", doc="name of the memory")
    batch_size: int = key(default=32, doc="transitions of one batch", low=1)
    max_size: int = key(default=10_000, doc="transitions kept; rounded down to whole rollouts", low=1, high=2**31 - 1)
    use_cer: bool = key(default=False, doc="combined experience replay: the newest step is in every batch")
    num_step_returns: int = key(default=1, doc="n of n-step returns", low=1)


class Transition(NamedTuple):
    """One row of the ring, or a batch of them `[B, ...]`."""

    obs: PyTree
    action: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: PyTree
    valid: Array


class Batch(NamedTuple):
    """What a value method learns from, `[B, ...]`, in rlax's grammar.

    Attributes:
        obs: `s_tm1`.
        action: `a_tm1`.
        r_t: sum of discounted rewards over the n steps, or up to the end of the episode if that comes first.
        discount_t: `gamma^k` for a return of `k` steps, 0 where the episode terminated.
        final_obs: `s_t`, the state to bootstrap from.
        weight: 1, or 0 for a row that must not be learned from.
        importance: what a loss is multiplied by where sampling was not uniform, at most 1.
    """

    obs: PyTree
    action: PyTree
    r_t: Array
    discount_t: Array
    final_obs: PyTree
    weight: Array
    importance: Array | float = 1.0


def capacity(spec: Replay, rollout_size: int, num_envs: int = 1) -> int:
    """Rows of the ring: `max_size` rounded down to a multiple of `rollout_size = T x E`, so that no write wraps.

    `num_envs` is `E`, of whose transitions the ring must hold `num_step_returns` each.

    Raises:
        SpecError: the ring could not hold a batch, or a rollout, or an n-step return.
    """
    rows = spec.max_size // rollout_size * rollout_size
    if rows < rollout_size:
        raise SpecError(
            f"expected at least one rollout of {rollout_size} transitions, got {spec.max_size}.",
            "agent.memory.max_size",
        )
    if rows < spec.batch_size:
        raise SpecError(
            f"expected at least a batch of {spec.batch_size} transitions, got {spec.max_size}"
            + (f" (rounded down to {rows}, whole rollouts of {rollout_size})." if rows != spec.max_size else "."),
            "agent.memory.max_size",
        )
    if rows < spec.num_step_returns * num_envs:
        raise SpecError(
            f"expected at most {rows // num_envs}, the steps of each environment in a memory of {rows} transitions, "
            f"got {spec.num_step_returns}.",
            "agent.memory.num_step_returns",
        )
    return rows


def example(env: VectorEnv) -> Transition:
    """One transition of an environment: shapes and dtypes, no values."""
    obs = zeros(env.observation_space)
    flag = jnp.zeros((), bool)
    return Transition(obs, zeros(env.action_space), jnp.zeros(()), flag, flag, obs, flag)


def init(example: Transition, rows: int) -> Transition:
    """An empty ring `[rows, ...]` for transitions shaped like `example`; dtypes are kept (uint8 stays uint8)."""
    return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), example)


def add(ring: Transition, rollout: Rollout, frame: Any) -> Transition:
    """The ring with a rollout `[T, E, ...]` that began at `frame` written over its oldest rows."""
    rows = ring.reward.shape[0]
    fresh = Transition(*(getattr(rollout, name) for name in Transition._fields))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), fresh)
    head = frame % rows
    return jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, head, 0), ring, flat)


def sample_indices(spec: Replay, rng: Key, batches: int, *, rows: int, num_envs: int, frame: Any) -> Array:
    """Rows of `batches` batches, int32 `[batches, batch_size]`, uniform with replacement.

    Only transitions whose n-step window has been written are drawn. With `use_cer` the newest of them, one of each
    environment, come first in every batch, and take at most half of it: a batch of the newest alone would be no replay
    (Zhang & Sutton 2017 add one transition, with their one environment, to each batch).

    Args:
        spec: the memory's keys.
        rng: key.
        batches: how many batches.
        rows: capacity of the ring.
        num_envs: `E`, the distance between two transitions of one environment.
        frame: frames written so far, the last rollout included.
    """
    window = (spec.num_step_returns - 1) * num_envs
    # While fewer steps were written than n, the oldest step is all there is; its window ends at what was written.
    youngest = jnp.minimum(window, jnp.minimum(frame, rows) - num_envs)
    written = jnp.minimum(frame, rows)
    age = jax.random.randint(rng, (batches, spec.batch_size), youngest, written, jnp.int32)
    if spec.use_cer:
        fresh = min(num_envs, spec.batch_size // 2)
        age = age.at[:, :fresh].set(jnp.arange(fresh, dtype=jnp.int32) + youngest)
    return (frame - 1 - age) % rows


def gather(spec: Replay, ring: Transition, index: Array, gamma: Any, *, num_envs: int, frame: Any) -> Batch:
    """The transitions at `index [B]` as n-step returns that never cross an episode or the write head.

    `r_t = sum_{k<m} gamma^k r_{t+k}` where the window `m <= n` ends with the episode, and
    `discount_t = gamma^m (1 - terminated)` (Sutton & Barto 2018, equation 7.1).
    """
    rows = ring.reward.shape[0]
    row = jax.tree.map(lambda x: x[index], ring)
    if spec.num_step_returns == 1:
        discount = gamma * (1.0 - row.terminated)
        return Batch(row.obs, row.action, row.reward, discount, row.final_obs, row.valid.astype(jnp.float32))

    age = (frame - 1 - index) % rows
    total, factor = row.reward, jnp.full_like(row.reward, gamma)
    open_, last = ~(row.terminated | row.truncated), index
    for k in range(1, spec.num_step_returns):
        # A window that reaches the newest step of its environment ends there, and bootstraps from it.
        open_ = open_ & (age - k * num_envs >= 0)
        here = (index + k * num_envs) % rows
        total = total + jnp.where(open_, factor * ring.reward[here], 0.0)
        factor = jnp.where(open_, factor * gamma, factor)
        last = jnp.where(open_, here, last)
        open_ = open_ & ~(ring.terminated[here] | ring.truncated[here])
    end_obs = jax.tree.map(lambda x: x[last], ring.final_obs)
    discount = factor * (1.0 - ring.terminated[last])
    return Batch(row.obs, row.action, total, discount, end_obs, row.valid.astype(jnp.float32))


def make(spec: Replay, env: VectorEnv, rollout_size: int) -> Store:
    """A ring for one agent, whose rollouts are `rollout_size = T x E` transitions.

    Raises:
        SpecError: see `capacity`; or a batch too small for the newest beside others.
    """
    if spec.use_cer and spec.batch_size < 2:
        raise SpecError(
            "expected at least 2 with use_cer (half of a batch is the newest), got 1.", "agent.memory.batch_size"
        )
    rows, num_envs = capacity(spec, rollout_size, env.num_envs), env.num_envs

    def sample(spec: Replay, ring: Transition, rng: Key, batches: int, frame: Any) -> Array:
        del ring
        return sample_indices(spec, rng, batches, rows=rows, num_envs=num_envs, frame=frame)

    def pick(spec: Replay, ring: Transition, index: Array, gamma: Any, frame: Any) -> Batch:
        return gather(spec, ring, index, gamma, num_envs=num_envs, frame=frame)

    return Store(lambda: init(example(env), rows), add, sample, pick, rows)


REPLAY = Memory(Replay, "transitions", make)
