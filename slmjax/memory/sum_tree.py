"""A sum tree, level by level: draws in proportion to priorities in O(log N), and no sum that can drift.

Level 0 holds the priorities; an entry of any later level is the sum of one group of `FAN` entries of the level before;
the last level is a single group. Parents are always summed from their children (never adjusted by differences), so
an index may be written twice at once and rounding does not accumulate. Levels are arrays of their own, for XLA copies a
tree that is one array; a fan-out of 8 needs the fewest operations on a CPU (2 takes three times as long).
"""

from typing import Any

import jax
import jax.numpy as jnp

from slmjax.types import Array, Key

FAN = 8
EXACT = 4
Levels = tuple[Array, ...]


def init(size: int) -> Levels:
    """Zeros for `size` priorities, each level padded to whole groups."""
    levels: list[Array] = []
    while not levels or size > 1:
        size = -(-size // FAN)
        levels.append(jnp.zeros(size * FAN))
    return tuple(levels)


def total(levels: Levels) -> Array:
    """The sum of all priorities."""
    return jnp.sum(levels[-1])


def renew(levels: Levels, leaves: Array, *spans: tuple[Any, int]) -> Levels:
    """Levels over new `leaves`, which differ from the old ones within `spans` of `(first index, how many)` alone.

    One slice a span and level: under `vmap` an index that all sessions share stays one number, and a write no scatter.
    All spans of a level are written before any of it is read, or XLA would copy it.
    """
    written = [leaves]
    for level in levels[1:]:
        sums = [_sums(written[-1], at, size) for at, size in spans]
        for at, values in sums:
            level = jax.lax.dynamic_update_slice_in_dim(level, values, at, 0)
        written.append(level)
        spans = tuple((at, values.size) for at, values in sums)
    return tuple(written)


def _sums(level: Array, at: Any, size: int) -> tuple[Any, Array]:
    """`(index of the first, sums)` of the groups that `size` entries from index `at` on may lie in."""
    groups = level.size // FAN
    count = min((size - 1) // FAN + 2, groups)
    first = jnp.minimum(at // FAN, groups - count)
    return first, jax.lax.dynamic_slice_in_dim(level, first * FAN, count * FAN).reshape(count, FAN).sum(-1)


def write(levels: Levels, index: Array, priority: Array) -> Levels:
    """Levels in which the priorities at `index [batches, B]` are `priority [batches, B]`.

    Where an index occurs in several batches the last one counts, within a batch the largest: the order in which XLA
    carries out the writes of a batch is its own.
    """

    def put(leaves: Array, batch: tuple[Array, Array]) -> tuple[Array, None]:
        here, values = batch
        return leaves.at[here].set(0.0).at[here].max(values), None

    leaves, _ = jax.lax.scan(put, levels[0], (index, priority))
    written, here = [leaves], index.reshape(-1)
    for level in levels[1:]:
        here = here // FAN
        written.append(level.at[here].set(written[-1].reshape(-1, FAN)[here].sum(-1)))
    return tuple(written)


def draw(levels: Levels, rng: Key, quantile: Array) -> Array:
    """Indices at the quantiles `[...]` (numbers in [0, 1)) of the priorities laid end to end, int32 `[...]`.

    An index of priority zero is never drawn while any other has one; index 0 where none has.

    A float has 24 bits, and a descent to one of a million entries uses up 20 of them: neighbours of equal priority
    would be drawn unequally often. So the quantile decides on the first `EXACT` levels; below them, where it makes no
    difference to the whole, each level has a draw of its own.
    """
    index, u = jnp.zeros(quantile.shape, jnp.int32), quantile
    fresh = jax.random.uniform(rng, (len(levels), *quantile.shape))
    for depth, level in enumerate(reversed(levels)):
        u = fresh[depth] if depth >= EXACT else u
        group = level.reshape(-1, FAN)[index]
        upto = jnp.cumsum(group, -1)
        mass = upto[..., -1]
        point = u * mass
        # Rounding may put a point beyond the sum; the last child that has any priority is then meant.
        child = jnp.minimum(jnp.sum(upto <= point[..., None], -1), jnp.sum(upto < mass[..., None], -1))
        before = jnp.where(child > 0, _pick(upto, jnp.maximum(child - 1, 0)), 0.0)
        size = _pick(group, child)
        u = jnp.clip((point - before) / jnp.where(size > 0, size, 1.0), 0.0, 1.0)
        index = index * FAN + child
    return index


def _pick(group: Array, child: Array) -> Array:
    return jnp.take_along_axis(group, child[..., None], -1)[..., 0]
