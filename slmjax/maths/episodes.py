"""Whole episodes out of rollouts: a window of the newest steps, and what became of the episodes that ended in them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.types import Array, PyTree, Rollout


class Window(NamedTuple):
    """The newest `H` steps of each environment, `[H, E, ...]`, the last one newest."""

    obs: PyTree
    raw: PyTree
    reward: Array
    ended: Array
    valid: Array

    @property
    def resets(self) -> Array:
        """Where a carry starts afresh after the step, `[H, E]`."""
        return self.ended | ~self.valid


def empty(rows: int, obs: PyTree, raw: Array) -> Window:
    """A window of `rows` steps, none of them valid, for one step shaped like `obs` and `raw`, `[E, ...]`."""
    zeros = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), Window(obs, raw, *[raw] * 3))
    flag = jnp.zeros((rows, *raw.shape[:1]), bool)
    return zeros._replace(reward=jnp.zeros(flag.shape), ended=flag, valid=jnp.zeros_like(flag))


def append(window: Window, rollout: Rollout, raw: PyTree) -> Window:
    """The window with a rollout `[T, E, ...]` and its raw draws at its end, and as many of the oldest steps gone."""
    fresh = Window(rollout.obs, raw, rollout.reward, rollout.ended, rollout.valid)
    return jax.tree.map(lambda old, new: jnp.concatenate([old[new.shape[0] :], new]), window, fresh)


class Episodes(NamedTuple):
    """What is known of each step of a window, `[H, E]`.

    Attributes:
        to_go: discounted return from this step to the end of its episode.
        total: undiscounted return of the whole episode.
        last: whether this step ended an episode in the newest rollout.
        done: whether its episode did.
    """

    to_go: Array
    total: Array
    last: Array
    done: Array


def returns_to_go(window: Window, gamma: Any) -> Array:
    """`G_t = r_t + gamma G_{t+1}` to the end of the episode, `[H, E]`; to the newest step where it is under way."""
    reward = jnp.where(window.valid, window.reward, 0.0)

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, ended = now
        to_go = reward + gamma * jnp.where(ended, 0.0, later)
        return to_go, to_go

    return jax.lax.scan(step, jnp.zeros_like(reward[0]), (reward, window.ended), reverse=True)[1]


def episodes(window: Window, newest: int, gamma: Any) -> Episodes:
    """Returns of the episodes that ended in the `newest` steps of a window; what lies in no such episode is 0."""
    age = jnp.arange(window.reward.shape[0])[::-1, None]
    last = window.ended & (age < newest)
    none = jnp.zeros_like(last[0])

    def back(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        done = jnp.where(now[0], now[1], later)
        return done, done

    def forth(episode: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple, Array]:
        (total, begins), (rest, ended) = episode, now
        total = jnp.where(begins, rest, total)
        return (total, ended), total

    done = jax.lax.scan(back, none, (window.ended, last), reverse=True)[1]
    rest = returns_to_go(window, 1.0)
    total = jax.lax.scan(forth, (rest[0], ~none), (rest, window.ended))[1]
    return Episodes(jnp.where(done, returns_to_go(window, gamma), 0.0), jnp.where(done, total, 0.0), last, done)


def elite_floor(found: Episodes, share: Any) -> Array:
    """The return that the best `share` of the finished episodes reached, at least one of them."""
    scores = jnp.sort(jnp.where(found.last, found.total, jnp.inf).reshape(-1))
    count = jnp.sum(found.last)
    rank = count - jnp.maximum(jnp.round(share * count).astype(jnp.int32), 1)
    return scores[jnp.clip(rank, 0)]
