"""Rings with the true return of their episode, for self-imitation (Oh et al. 2018).

    R_t = r_t + gamma R_{t+1} within an episode;  gamma v(s_T) stands beyond a truncation, 0 beyond a termination

Rollouts cut episodes into pieces. For each row the ring keeps its return up to the end of its episode or rollout, and
the discount of what lies beyond. What lies beyond a rollout is the return of the next one's first row, so one scan over
the rollouts in the ring, from the newest to the oldest, completes every return whose episode has ended. Rows of
episodes still under way have no weight: their return is not known.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.memory import replay
from slmjax.memory.keys import learned_reward
from slmjax.memory.replay import Batch, Replay
from slmjax.memory.ring import Ring
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, Rollout, SpecError, Store, VectorEnv


@hyper
class EpisodeReplay(Replay):
    """`agent.memory` of name `SILReplay`."""

    name: str = key(default="SILReplay", doc="name of the memory")


class EpisodeRing(NamedTuple):
    """A ring, and what is known of the return of each of its rows.

    Attributes:
        ring: the transitions.
        gain: discounted rewards up to the end of the row's episode or rollout, `[rows]`.
        factor: discount of what comes after that rollout, 0 where the episode ended in it, `[rows]`.
    """

    ring: Ring
    gain: Array
    factor: Array


class EpisodePicks(NamedTuple):
    """Rows, their returns, and 0 for those whose return is not known yet, `[batches, B]` each."""

    row: Array
    returns: Array
    weight: Array


def gains(reward: Array, ended: Array, beyond: Array, gamma: Any) -> tuple[Array, Array]:
    """`(gain, factor)` of the rows of a rollout, `[T, E]`; `beyond` is what is worth an episode's end, discounted."""

    def step(later: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Any]:
        r_t, end, worth = now
        here = r_t + jnp.where(end, worth, gamma * later[0]), jnp.where(end, 0.0, gamma * later[1])
        return here, here

    start = jnp.zeros_like(reward[0]), jnp.ones_like(reward[0])
    _, (gain, factor) = jax.lax.scan(step, start, (reward, ended, beyond), reverse=True)
    return gain, factor


def beyond_rollouts(gain: Array, factor: Array, newest: Any) -> tuple[Array, Array]:
    """Returns `[C, E]` of what comes after each of `C` rollouts in a ring, and what they lack.

    The return of a rollout's first row is `gain + factor x that of the next rollout's`; two such steps are one of the
    same form, so all of them are an associative scan. What a return lacks is the discount of what no rollout has seen
    yet: 0 where it is complete.

    Args:
        gain: of the first row of each rollout, `[C, E]`.
        factor: of the same.
        newest: which of the rollouts is the newest; the oldest comes after it.
    """
    first = tuple(jnp.roll(x, -(newest + 1), 0) for x in (gain, factor))
    after = lambda later, now: (now[0] + now[1] * later[0], now[1] * later[1])  # noqa: E731
    whole = jax.lax.associative_scan(after, first, reverse=True)
    # What follows each rollout: the next one, and after the newest nothing yet.
    rest = jnp.concatenate([whole[0][1:], jnp.zeros_like(first[0][:1])])
    lacks = jnp.concatenate([whole[1][1:], jnp.ones_like(first[1][:1])])
    return jnp.roll(rest, newest + 1, 0), jnp.roll(lacks, newest + 1, 0)


def make(spec: EpisodeReplay, env: VectorEnv, rollout_size: int) -> Store:
    """A ring for one agent, whose rollouts are `rollout_size = T x E` transitions.

    Its `add` reads `rollout.final_value`, of which those at truncations count. In the batches `r_t` is the return and
    `discount_t` 0.

    Raises:
        SpecError: see `replay.make`; n-step returns or combined replay, which whole episodes have no use for.
    """
    if spec.num_step_returns > 1:
        raise SpecError(
            f"expected 1 where returns are those of episodes, got {spec.num_step_returns}.",
            "agent.memory.num_step_returns",
        )
    if spec.use_cer:
        raise SpecError("expected false where the newest have no return yet, got true.", "agent.memory.use_cer")
    store, num_envs = replay.make(spec, env, rollout_size), env.num_envs
    shape = (store.capacity // rollout_size, rollout_size // num_envs, num_envs)

    def init() -> EpisodeRing:
        return EpisodeRing(store.init(), jnp.zeros(store.capacity), jnp.zeros(store.capacity))

    def add(state: EpisodeRing, rollout: Rollout, gamma: Any, frame: Any) -> EpisodeRing:
        beyond = jnp.where(rollout.truncated, gamma * rollout.final_value, 0.0)
        fresh = gains(learned_reward(spec, rollout), rollout.resets, beyond, gamma)
        head = frame % store.capacity
        put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new.reshape(-1), head, 0)  # noqa: E731
        ring = store.add(state.ring, rollout, gamma, frame)
        return EpisodeRing(ring, put(state.gain, fresh[0]), put(state.factor, fresh[1]))

    def sample(spec: EpisodeReplay, state: EpisodeRing, rng: Key, batches: int, frame: Any) -> EpisodePicks:
        row = store.sample(spec, state.ring, rng, batches, frame)
        newest = (frame // rollout_size - 1) % shape[0]
        gain, factor = (x.reshape(shape)[:, 0] for x in (state.gain, state.factor))
        rest, lacks = (x[row // rollout_size, row % num_envs] for x in beyond_rollouts(gain, factor, newest))
        known = (state.factor[row] * lacks == 0) & state.ring.valid[row]
        return EpisodePicks(row, state.gain[row] + state.factor[row] * rest, known.astype(jnp.float32))

    def gather(spec: EpisodeReplay, state: EpisodeRing, pick: EpisodePicks, gamma: Any, frame: Any) -> Batch:
        batch = store.gather(spec, state.ring, pick.row, gamma, frame)
        return batch._replace(r_t=pick.returns, discount_t=jnp.zeros_like(pick.returns), weight=pick.weight)

    return Store(init, add, sample, gather, store.capacity)
