"""Windows of consecutive steps for recurrent networks (Hausknecht & Stone 2015; burn-in: Kapturowski et al. 2019).

A window is `burn_in + seq_len` steps of one environment. It never crosses the write head. An episode may end inside:
`resets` says where the recurrent carry starts afresh. What came before a window is not known, so it begins with a
fresh carry, and the first `burn_in` steps, of weight 0, only warm it up. An n-step return ends with its episode, or
with the window where that comes first.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from slmjax.memory import replay
from slmjax.memory.replay import Batch, Replay
from slmjax.memory.ring import Ring
from slmjax.types import Array, Key, PyTree, SpecError, Store, VectorEnv


def length(spec: Replay) -> int:
    """Steps of a window, `L`."""
    return spec.burn_in + spec.seq_len


def lag(spec: Replay, num_envs: int) -> int:
    """Age from which a row may begin a window: the rest of it lies in the rows that came after."""
    return (length(spec) - 1 + (spec.stack_len > 1)) * num_envs


def n_step(r_t: Array, discount_t: Array, ended: Array, able: Array, steps: int) -> tuple[Array, Array, Array]:
    """`(r_t, discount_t, last)` of the n-step returns from each step of windows, all `[L, B]`.

    `sum_{k<m} gamma^k r_{t+k}` and `gamma^m (1 - terminated)`, where `m <= steps` is where the episode or the window
    ends, or before a step that is not `able` to be learned from; `last` is `t + m - 1`.
    """
    time = jnp.arange(r_t.shape[0])[:, None]
    total, factor, last, open_ = r_t, discount_t, jnp.broadcast_to(time, r_t.shape), ~ended
    for k in range(1, steps):
        reward, discount, end, usable = (jnp.roll(x, -k, 0) for x in (r_t, discount_t, ended, able))
        open_ = open_ & usable & (time + k < r_t.shape[0])
        total = total + jnp.where(open_, factor * reward, 0.0)
        factor = jnp.where(open_, factor * discount, factor)
        last = jnp.where(open_, time + k, last)
        open_ = open_ & ~end
    return total, factor, last


Pair = tuple[Array, Array]  # what a network puts out at s_tm1 and at s_t


def side_by_side(windows: tuple[Batch, Pair, Pair], last: Array | None) -> tuple[Batch, Pair, Pair]:
    """Windows `[L, B, ...]` as transitions `[L x B, ...]`: a batch, and what two networks predict for (s_tm1, s_t).

    `s_t` becomes the successor of the step `last [L, B]` with which an n-step return ends. Without windows (`last` is
    None) everything is as it was.
    """
    if last is None:
        return windows

    def reached(tree: PyTree) -> PyTree:
        at = lambda x: jnp.take_along_axis(x, last.reshape(last.shape + (1,) * (x.ndim - 2)), 0)  # noqa: E731
        return jax.tree.map(at, tree)

    batch, online, target = windows
    batch = batch._replace(
        final_obs=reached(batch.final_obs), importance=jnp.broadcast_to(batch.importance, last.shape)
    )
    moved = batch, (online[0], reached(online[1])), (target[0], reached(target[1]))
    flat: tuple[Batch, Pair, Pair] = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), moved)
    return flat


def make(spec: Replay, env: VectorEnv, rollout_size: int) -> Store:
    """A ring for one agent with a recurrent network: `gather` gives windows, `replay.Batch` of `[L, B, ...]`.

    Raises:
        SpecError: see `replay.make`; a ring that cannot hold a window.
    """
    single = dataclasses.replace(spec, num_step_returns=1)
    store, num_envs = replay.make(single, env, rollout_size), env.num_envs
    rows = store.capacity
    most = rows // num_envs - spec.stack_len + 1 - (spec.stack_len > 1) - spec.burn_in
    if spec.seq_len > most:
        raise SpecError(
            f"expected at most {most} in a memory of {rows} transitions ({num_envs} environments, burn_in "
            f"{spec.burn_in}), got {spec.seq_len}.",
            "agent.memory.seq_len",
        )

    def sample(spec: Replay, ring: Ring, rng: Key, batches: int, frame: Any) -> Array:
        del ring
        young = lag(spec, num_envs)
        return replay.sample_indices(spec, rng, batches, rows=rows, num_envs=num_envs, frame=frame, lag=young)

    def gather(spec: Replay, ring: Ring, start: Array, gamma: Any, frame: Any) -> Batch:
        steps = jnp.arange(length(spec))[:, None]
        index = (start + steps * num_envs) % rows
        step = replay.read(single, env, ring, index, gamma, frame)
        # While no window is complete the oldest rows are drawn, and their windows go beyond what was written.
        able = (step.weight > 0) & ((frame - 1 - start) % rows - steps * num_envs >= 0)
        ended = ring.resets(index)
        r_t, discount_t, last = n_step(step.r_t, step.discount_t, ended, able, spec.num_step_returns)
        weight = (able & (steps >= spec.burn_in)).astype(jnp.float32)
        return step._replace(r_t=r_t, discount_t=discount_t, weight=weight, resets=ended, last=last)

    return store._replace(sample=sample, gather=gather)
