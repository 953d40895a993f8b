"""Episodes that ended in a session: raw returns and lengths. Pure functions over `EpisodeStats`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slmjax.types import Array, Rollout

WINDOW = 100  # finished episodes that `total_reward` averages, as SLM Lab does


class Tally(NamedTuple):
    """Episodes that ended in some span of frames. Means, not sums: a long span would outgrow the digits of a float32.

    Attributes:
        episodes: how many.
        mean_return: mean of their raw returns, 0 while there is none.
        mean_length: mean of their lengths in steps, likewise.
    """

    episodes: Array
    mean_return: Array
    mean_length: Array


class EpisodeStats(NamedTuple):
    """Raw returns.

    Attributes:
        running: returns so far of the episodes under way, `[E]`.
        age: steps so far of the episodes under way, `[E]`.
        returns: returns of the last finished episodes, a ring `[WINDOW]`.
        finished: how many episodes have finished.
        late: those that ended since the frame `late` of `Program.segment`.
    """

    running: Array
    age: Array
    returns: Array
    finished: Array
    late: Tally


def begin(num_envs: int) -> EpisodeStats:
    """The statistics before the first step."""
    age = jnp.zeros(num_envs, jnp.int32)
    return EpisodeStats(jnp.zeros(num_envs), age, jnp.zeros(WINDOW), jnp.zeros((), jnp.int32), no_episode())


def no_episode() -> Tally:
    """The tally of nothing."""
    return Tally(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(()))


def count(stats: EpisodeStats, row: Tally, rollout: Rollout, returns: Array, late: Array) -> tuple[EpisodeStats, Tally]:
    """The statistics, and the tally of a log row, with the episodes that ended in a rollout.

    Args:
        stats: before the rollout, but `running`, which is that after it.
        row: of the log row under way.
        rollout: `[T, E, ...]`; steps that are not `valid` count nowhere.
        returns: of the episodes under way after each step, `[T, E]`.
        late: whether the rollout is of those that `stats.late` counts: one flag for the whole population.
    """
    ended = rollout.ended & rollout.valid
    # Lengths of the episodes of one environment add up to the steps until the last of them ended.
    time = jnp.arange(len(ended))[:, None]
    last = jnp.max(jnp.where(ended, time, -1), 0)
    age = jnp.sum(rollout.valid & (time > last), 0, dtype=jnp.int32)
    all_ = stats.age + jnp.sum(rollout.valid, 0, dtype=jnp.int32)
    steps = jnp.where(last < 0, 0, all_ - age)
    more = jnp.sum(ended, dtype=jnp.int32), jnp.sum(jnp.where(ended, returns, 0.0)), jnp.sum(steps)
    since = jax.tree.map(lambda x: jnp.where(late, x, jnp.zeros_like(x)), _with_episodes(stats.late, *more))
    stats = _remember(stats, ended.reshape(-1), returns.reshape(-1))
    return stats._replace(age=all_ - steps, late=since), _with_episodes(row, *more)


def newest_mean(stats: EpisodeStats) -> Array:
    """Mean return of the last `WINDOW` episodes, or of as many as there are; 0 while there is none."""
    seen = jnp.arange(WINDOW) < stats.finished
    return jnp.sum(jnp.where(seen, stats.returns, 0.0)) / jnp.maximum(jnp.sum(seen), 1)


def _with_episodes(tally: Tally, count: Array, returns: Array, steps: Array) -> Tally:
    """A tally with `count` more episodes, whose returns and lengths come to `returns` and `steps`."""
    episodes = tally.episodes + count
    share = 1.0 / jnp.maximum(episodes, 1)
    mean_return = tally.mean_return + share * (returns - count * tally.mean_return)
    return Tally(episodes, mean_return, tally.mean_length + share * (steps - count * tally.mean_length))


def _remember(stats: EpisodeStats, ended: Array, returns: Array) -> EpisodeStats:
    """The statistics with the returns of episodes that ended, in the order of time; the oldest fall out."""
    rank = jnp.cumsum(ended)
    newest = ended & (rank > rank[-1] - WINDOW)
    slot = jnp.where(newest, (stats.finished + rank - 1) % WINDOW, WINDOW)
    kept = stats.returns.at[slot].set(returns, mode="drop")
    return stats._replace(returns=kept, finished=stats.finished + rank[-1].astype(jnp.int32))
