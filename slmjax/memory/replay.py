"""Uniform experience replay: rows of a ring (`ring.py`) drawn with equal probabilities, as n-step returns.

A ring holds each frame once. With `stack_len` above 1 it keeps no successors aside: stacks are made when rows are read
(`frame_stack.stack_rows`), and the successor of a row is the stack `E` rows further. So the last row of a truncated
episode has no successor and is not learned from, and a row waits for the next.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.memory.frame_stack import frame_stack, stack_rows
from slmjax.memory.keys import MemoryKeys, learned_reward
from slmjax.memory.ring import Ring, add, example, init, successor
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, PyTree, Rollout, SpecError, Store, VectorEnv, widen


@hyper
class Replay(MemoryKeys):
    """`agent.memory` of name `Replay` and its kin."""

    name: str = key(default="Replay", doc="name of the memory")
    batch_size: int = key(default=32, doc="transitions of one batch", low=1)
    max_size: int = key(default=10_000, doc="transitions kept; rounded down to whole rollouts", low=1, high=2**31 - 1)
    use_cer: bool = key(
        default=False, doc="combined experience replay: the newest steps are in every batch, at most half of it"
    )
    num_step_returns: int = key(default=1, doc="n of n-step returns", low=1)
    seq_len: int = key(
        default=16, doc="steps of a window that a recurrent network learns from; no other reads it", low=1
    )
    burn_in: int = key(default=4, doc="steps before a window that only warm up the recurrent carry", low=0)


class Batch(NamedTuple):
    """What a value method learns from, `[B, ...]`, in rlax's grammar; or windows of consecutive steps, `[L, B, ...]`.

    Attributes:
        obs: `s_tm1`.
        action: `a_tm1`.
        r_t: sum of discounted rewards over the n steps, or up to the end of the episode if that comes first.
        discount_t: `gamma^k` for a return of `k` steps, 0 where the episode terminated.
        final_obs: `s_t`, the state to bootstrap from.
        weight: 1, or 0 for a row that must not be learned from.
        importance: what a loss is multiplied by where sampling was not uniform, at most 1.
        resets: of windows: an episode ended with the step, so the recurrent carry starts afresh after it.
        last: of windows: the step of the window, from 0, with which the n-step return ends and whose successor is
            bootstrapped from. There `final_obs` is the successor of each single step: put it through the network with
            the carry that `obs` left behind.
    """

    obs: PyTree
    action: PyTree
    r_t: Array
    discount_t: Array
    final_obs: PyTree
    weight: Array
    importance: Array | float = 1.0
    resets: Array | None = None
    last: Array | None = None


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


def sample_indices(spec: Replay, rng: Key, batches: int, *, rows: int, num_envs: int, frame: Any, lag: int) -> Array:
    """Rows of `batches` batches, int32 `[batches, batch_size]`, uniform with replacement.

    Only rows are drawn for which all that comes after them has been written. With `use_cer` the newest of them, one of
    each environment, come first in every batch, and take at most half of it, where environments take turns: a batch of
    the newest alone would be no replay (Zhang & Sutton 2017 add one transition, with their one environment, to each
    batch).

    Args:
        spec: the memory's keys.
        rng: key.
        batches: how many batches.
        rows: capacity of the ring.
        num_envs: `E`, the distance between two transitions of one environment.
        frame: frames written so far, the last rollout included.
        lag: age from which a row is complete: `lag` for transitions, `sequences.lag` for windows.
    """
    oldest = jnp.minimum(frame, whole(spec, rows, num_envs, frame))
    # While no row is complete, the oldest step is all there is; its window ends at what was written.
    youngest = jnp.minimum(lag, oldest - num_envs)
    fresh = jnp.arange(newest(spec, num_envs), dtype=jnp.int32)
    if 0 < len(fresh) < num_envs:  # environments take turns
        rng, turn_key = jax.random.split(rng)
        fresh = (fresh + jax.random.randint(turn_key, (batches, 1), 0, num_envs, jnp.int32)) % num_envs
    age = jax.random.randint(rng, (batches, spec.batch_size), youngest, oldest, jnp.int32)
    if spec.use_cer:
        age = age.at[:, : fresh.shape[-1]].set(fresh + youngest)
    return (frame - 1 - age) % rows


def lag(spec: Replay, num_envs: int) -> int:
    """Age from which a row may be drawn: the rest of its n-step window lies in the rows that came after it."""
    return (spec.num_step_returns - 1 + (spec.stack_len > 1)) * num_envs


def whole(spec: Replay, rows: int, num_envs: int, frame: Any) -> Any:
    """Age below which a row may be drawn: of older ones the stack has been overwritten in part (never written: not)."""
    return jnp.where(frame > rows, rows - (spec.stack_len - 1) * num_envs, rows)


def newest(spec: Replay, num_envs: int) -> int:
    """How many of the newest transitions `use_cer` puts into a batch: one of each environment, at most half of it."""
    return min(num_envs, spec.batch_size // 2) if spec.use_cer else 0


def learnable(spec: Replay, valid: Array, truncated: Array) -> Array:
    """Which rows may ever be learned from, their age aside: neither invented nor without a successor."""
    return valid & ~truncated if spec.stack_len > 1 else valid


def n_step(
    spec: Replay, ring: Ring, index: Array, gamma: Any, *, num_envs: int, frame: Any
) -> tuple[Array, Array, Array]:
    """`(r_t, discount_t, last row)` of the windows that begin at `index`, which cross no episode nor the write head.

    `r_t = sum_{k<m} gamma^k r_{t+k}` where the window `m <= n` ends with the episode, and
    `discount_t = gamma^m (1 - terminated)` (Sutton & Barto 2018, equation 7.1).
    """
    rows, stacked = ring.reward.shape[0], isinstance(spec, MemoryKeys) and spec.stack_len > 1
    age = (frame - 1 - index) % rows
    total, factor, last = ring.reward[index], jnp.full_like(ring.reward[index], gamma), index
    open_ = ~(ring.terminated[index] | ring.truncated[index])
    for k in range(1, spec.num_step_returns):
        # A window that reaches the newest step of its environment ends there, and bootstraps from it.
        here = (index + k * num_envs) % rows
        open_ = open_ & (age - k * num_envs >= 0)
        if stacked:  # a step without a stored successor stays outside: the window bootstraps from its observation
            open_ = open_ & ~ring.truncated[here] & (ring.terminated[here] | (age - (k + 1) * num_envs >= 0))
        total = total + jnp.where(open_, factor * ring.reward[here], 0.0)
        factor = jnp.where(open_, factor * gamma, factor)
        last = jnp.where(open_, here, last)
        open_ = open_ & ~(ring.terminated[here] | ring.truncated[here])
    return total, factor * (1.0 - ring.terminated[last]), last


def gather(spec: Replay, ring: Ring, index: Array, gamma: Any, *, num_envs: int, frame: Any) -> Batch:
    """The transitions at rows `index [...]` as n-step returns (`n_step`), in the dtypes of the ring."""
    r_t, discount_t, last = n_step(spec, ring, index, gamma, num_envs=num_envs, frame=frame)
    after, known = successor(ring, last, frame)
    obs, action, final_obs = _at(ring.obs, index), _at(ring.action, index), _at(ring.obs, after)
    return Batch(obs, action, r_t, discount_t, final_obs, (ring.valid[index] & known).astype(jnp.float32))


def gather_stacks(spec: Replay, ring: Ring, index: Array, gamma: Any, *, num_envs: int, frame: Any) -> Batch:
    """As `gather`, of a ring that lays nothing aside; observations are the last `stack_len` frames."""
    rows = ring.reward.shape[0]
    r_t, discount_t, last = n_step(spec, ring, index, gamma, num_envs=num_envs, frame=frame)
    look = lambda at: stack_rows(ring, at, spec.stack_len, num_envs=num_envs, frame=frame)  # noqa: E731
    terminated = ring.terminated[last]
    after = jnp.where(terminated, last, (last + num_envs) % rows)
    has_successor = terminated | ((frame - 1 - last) % rows >= num_envs)
    able = learnable(spec, ring.valid[index], ring.truncated[index])
    weight = (able & has_successor).astype(jnp.float32)
    return Batch(look(index), _at(ring.action, index), r_t, discount_t, look(after), weight)


def _at(tree: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)


def read(spec: Replay, env: VectorEnv, ring: Ring, index: Array, gamma: Any, frame: Any) -> Batch:
    """The transitions at rows `index [...]` of the ring that `make` keeps, as networks see them."""
    space, stack = env.observation_space, frame_stack(spec, env.observation_space)
    find = gather if stack.length == 1 else gather_stacks
    batch: Batch = find(spec, ring, index, gamma, num_envs=env.num_envs, frame=frame)

    def see(kept: PyTree) -> PyTree:
        return widen(space, kept) if stack.length == 1 else stack.join(widen(space, kept))

    action = widen(env.action_space, batch.action)
    return batch._replace(obs=see(batch.obs), action=action, final_obs=see(batch.final_obs))


def make(spec: Replay, env: VectorEnv, rollout_size: int) -> Store:
    """A ring for one agent, whose rollouts are `rollout_size = T x E` transitions.

    Raises:
        SpecError: see `capacity` and `frame_stack`; or a batch too small for `use_cer`.
    """
    if spec.use_cer and spec.batch_size < 2:
        raise SpecError(
            "expected at least 2 with use_cer (half of a batch is the newest), got 1.", "agent.memory.batch_size"
        )
    rows, num_envs = capacity(spec, rollout_size, env.num_envs), env.num_envs
    stacked = spec.stack_len > 1
    frame_stack(spec, env.observation_space)  # raises where frames cannot be joined
    needed = lag(spec, num_envs) + spec.stack_len * num_envs
    if stacked and rows < needed:
        raise SpecError(
            f"expected at most {spec.stack_len - -(-(needed - rows) // num_envs)} in a memory of {rows} transitions "
            f"({num_envs} environments), got {spec.stack_len}.",
            "agent.memory.stack_len",
        )

    def start() -> Ring:
        return init(example(env), rows, num_envs=0 if stacked else num_envs, max_steps=env.max_steps)

    def remember(ring: Ring, rollout: Rollout, gamma: Any, frame: Any) -> Ring:
        del gamma
        return add(ring, rollout._replace(reward=learned_reward(spec, rollout)), frame)

    def sample(spec: Replay, ring: Ring, rng: Key, batches: int, frame: Any) -> Array:
        del ring
        young = lag(spec, num_envs)
        return sample_indices(spec, rng, batches, rows=rows, num_envs=num_envs, frame=frame, lag=young)

    def pick(spec: Replay, ring: Ring, index: Array, gamma: Any, frame: Any) -> Batch:
        return read(spec, env, ring, index, gamma, frame)

    return Store(start, remember, sample, pick, rows)
