"""Prioritized replay: the sum tree against NumPy, the memory against a plain one that shares no code with it."""

import itertools
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of
from compiling import AS_USERS_DO
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rings import Stream, shapes_only
from scipy import stats
from test_learning import values

import slmjax
from slmjax.lab.trial import make_trial
from slmjax.memory import prioritized, sum_tree
from slmjax.memory.prioritized import PrioritizedReplay

FAIR, ABSURD = 1e-3, 1e-9
ALPHA, EPSILON, BETA = 0.7, 0.01, 0.5

write, draw = jax.jit(sum_tree.write), jax.jit(sum_tree.draw)


@partial(jax.jit, static_argnums=3)
def fill(levels, at, new, also=False):
    """Neighbours from index `at` on become `new`, and index 0 becomes `new[0]` where `also`."""
    leaves, spans = jax.lax.dynamic_update_slice_in_dim(levels[0], new, at, 0), [(at, new.size)]
    if also:
        leaves, spans = leaves.at[0].set(new[0]), [*spans, (0, 1)]
    return sum_tree.renew(levels, leaves, *spans)


def tree_of(leaves):
    """The tree that holds `leaves [N]`."""
    return fill(sum_tree.init(len(leaves)), 0, jnp.asarray(leaves, jnp.float32))


def check_sums(levels):
    for below, level in itertools.pairwise(levels):
        sums = np.asarray(below, np.float64).reshape(-1, sum_tree.FAN).sum(-1)
        np.testing.assert_allclose(np.asarray(level)[: len(sums)], sums, rtol=1e-5)
        assert not np.asarray(level)[len(sums) :].any()


# ------------------------------------------------------------------------------------------------------------ the tree


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1, 5, 8, 9, 64, 65, 600]))
def test_the_tree_holds_what_was_written_and_its_sums(seed, size):
    rng = np.random.default_rng(seed)
    levels, oracle = sum_tree.init(size), np.zeros(size)
    for _ in range(6):
        if rng.random() < 0.5:
            width = min(size, 5)
            at, new = rng.integers(size - width + 1), rng.random(width)
            levels, oracle[at : at + width] = fill(levels, at, jnp.float32(new), True), new
            oracle[0] = new[0]
        else:
            index, new = rng.integers(size, size=(2, 4)), rng.random((2, 4))
            levels = write(levels, index, jnp.float32(new))
            for batch, priority in zip(index, new, strict=True):
                for i in set(batch):
                    oracle[i] = priority[batch == i].max()
        np.testing.assert_allclose(np.asarray(levels[0])[:size], oracle, rtol=1e-6)
        check_sums(levels)
        np.testing.assert_allclose(sum_tree.total(levels), oracle.sum(), rtol=1e-5)


def by_differences(levels, index, priority):
    """The mutant: parents are moved by the differences of their children, as in many libraries."""
    flat, moved = index.reshape(-1), (priority - levels[0][index]).reshape(-1)
    out = [levels[0].at[flat].set(priority.reshape(-1))]
    for level in levels[1:]:
        flat = flat // sum_tree.FAN
        out.append(level.at[flat].add(moved))
    return tuple(out)


@cache
def after_many_updates(update):
    def step(levels, key):
        at, size = jax.random.split(key)
        index = jax.random.randint(at, (2, 8), 0, 500)
        return update(levels, index, jax.random.uniform(size, (2, 8)) ** 8), None

    run = jax.jit(lambda levels, keys: jax.lax.scan(step, levels, keys)[0])
    return run(tree_of(np.ones(500)), jax.random.split(jax.random.key(0), 100_000))


def test_the_root_is_the_sum_of_the_leaves_after_a_hundred_thousand_updates():
    levels = after_many_updates(sum_tree.write)
    exact = np.asarray(levels[0], np.float64).sum()
    assert 10 < exact < 200
    np.testing.assert_allclose(sum_tree.total(levels), exact, rtol=1e-6)
    check_sums(levels)


def test_parents_moved_by_differences_would_be_caught():
    levels = by_differences(tree_of(np.ones(500)), np.array([[3, 3, 4]]), jnp.array([[2.0, 2.0, 5.0]]))
    assert abs(float(sum_tree.total(levels)) - float(levels[0].sum())) >= 1
    drifted = after_many_updates(by_differences)
    assert abs(float(sum_tree.total(drifted)) / float(drifted[0].sum()) - 1) > 0.01


def test_the_last_batch_counts_and_the_largest_within_a_batch():
    levels = write(
        tree_of(np.ones(20)), np.array([[3, 7, 3], [7, 9, 9]]), jnp.array([[5.0, 8.0, 6.0], [2.0, 3.0, 4.0]])
    )
    np.testing.assert_array_equal(levels[0][jnp.array([3, 7, 9, 0])], [6, 2, 4, 1])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1, 7, 8, 63, 70, 520]))
def test_a_quantile_falls_where_it_falls_in_the_row_of_priorities(seed, size):
    leaves = np.random.default_rng(seed).integers(0, 4, size)
    leaves[seed % size] += 1
    point = np.arange(2000) % leaves.sum() + 0.5
    drawn = np.asarray(draw(tree_of(leaves), jax.random.key(seed), jnp.float32(point / leaves.sum())))
    np.testing.assert_array_equal(drawn, np.searchsorted(np.cumsum(leaves), point))


@pytest.mark.parametrize("quantile", [0.0, 0.5, 1 - 2.0**-24, 1.0])
def test_what_has_no_priority_is_never_drawn(quantile):
    rng = np.random.default_rng(0)
    for size in (3, 8, 9, 100, 1000):
        leaves = np.where(rng.random(size) < 0.05, rng.random(size) ** 20, 0)
        leaves[rng.integers(size)] = 1e-6
        drawn = draw(tree_of(leaves), jax.random.key(size), jnp.full((1000,), quantile, jnp.float32))
        assert (leaves[np.asarray(drawn)] > 0).all()
    assert (np.asarray(draw(sum_tree.init(9), jax.random.key(0), jnp.full((3,), quantile))) == 0).all()


def test_neighbours_in_a_large_tree_are_drawn_equally_often():
    size, draws, cell = 1_000_003, 1_500_000, 512
    first = -(-(size // 2) // cell) * cell  # whole cells of what lies below the levels that the quantile decides on
    u = 0.5 + jax.random.uniform(jax.random.key(1), (draws,)) * 2.0**-9
    count = lambda drawn: np.bincount(drawn, minlength=size)[first : first + 2 * cell]  # noqa: E731
    assert stats.chisquare(count(np.asarray(draw(tree_of(np.ones(size)), jax.random.key(0), u)))).pvalue > FAIR
    with_24_bits = np.floor(np.asarray(u, np.float64) * size).astype(int)
    assert stats.chisquare(count(with_24_bits)).pvalue < ABSURD


# ---------------------------------------------------------------------------------------------------------- the memory


class Plain:
    """Prioritized replay as the paper has it, float64, with lists and loops: `priority[number]` of each frame."""

    def __init__(self, rows, envs, n, stack):
        self.rows, self.envs, self.n, self.stack = rows, envs, n, stack
        self.frames, self.priority, self.largest = [], {}, 1.0

    def add(self, frames):
        self.frames = frames
        newest = len(frames)
        for number, row in enumerate(frames):
            # What it needs of later rows: n - 1 of them for the return, and one for the successor of a stack.
            complete = number + (self.n - 1 + (self.stack > 1)) * self.envs < newest
            needed = number - (self.stack - 1) * self.envs  # the oldest frame of its stack
            there = number >= newest - self.rows and (needed >= newest - self.rows or newest <= self.rows)
            able = row["valid"] and not (self.stack > 1 and row["truncated"])
            if not (complete and there and able):
                self.priority.pop(number, None)
            elif number not in self.priority:
                self.priority[number] = self.largest

    def rate(self, numbers, error):
        for batch, wrong in zip(numbers, error, strict=True):
            found = {}
            for number, size in zip(batch, wrong, strict=True):
                found.setdefault(number, []).append((abs(float(size)) + EPSILON) ** ALPHA)
            known = {number: max(sizes) for number, sizes in found.items() if number in self.priority}
            self.priority |= known
            self.largest = max([self.largest, *known.values()])

    def weights(self, batch):
        """`(N P)^-beta`, divided by the largest of the batch."""
        total = sum(self.priority.values())
        raw = [(len(self.priority) * self.priority[i] / total) ** -BETA for i in batch]
        return np.array(raw) / max(raw)


@cache
def memory_of(shape, n, stack, batch_size=6, use_cer=False):
    """`(spec, jitted store)` for `(T, E, rollouts held)`."""
    steps, envs, held = shape
    spec = PrioritizedReplay(
        max_size=steps * envs * held, batch_size=batch_size, num_step_returns=n, stack_len=stack, use_cer=use_cer,
        alpha=ALPHA, epsilon=EPSILON, beta_spec=BETA,
    )  # fmt: skip
    store = prioritized.make(spec, shapes_only(envs), steps * envs)
    sample = jax.jit(lambda ring, key, frame: store.sample(spec, ring, key, 3, frame))
    jitted = {"add": jax.jit(store.add), "sample": sample, "rate": jax.jit(partial(store.rate, spec))}
    return spec, store._replace(**jitted)


HISTORIES = [  # (T, E, rollouts held), n, stack
    ((1, 1, 9), 1, 1),
    ((2, 2, 5), 1, 1),
    ((2, 3, 4), 3, 1),
    ((3, 1, 5), 4, 1),
    ((5, 2, 1), 3, 1),
    ((2, 2, 6), 1, 3),
    ((3, 2, 4), 2, 4),
    ((1, 2, 12), 3, 3),
]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(HISTORIES), st.booleans())
@example(0, HISTORIES[6], True)
def test_it_agrees_with_a_plain_one_over_any_history(seed, history, invalid):
    (steps, envs, held), n, stack = history
    rows, rng = steps * envs * held, np.random.default_rng(seed)
    _, store = memory_of(*history)
    stream, plain = Stream(seed, steps, envs, invalid=invalid), Plain(rows, envs, n, stack)
    ring = store.init()
    for turn in range(3 * held):
        frame = len(stream.frames)
        ring = store.add(ring, stream.rollout(), 0.9, frame)
        plain.add(stream.frames)
        written = len(stream.frames)
        for _ in range(rng.integers(3)):
            picks = store.sample(ring, jax.random.key(seed + turn), written)
            row = np.asarray(picks.row)
            numbers = written - 1 - (written - 1 - row) % rows
            if plain.priority:
                assert set(numbers.ravel()) <= set(plain.priority)
                expected = np.stack([plain.weights(batch) for batch in numbers])
                np.testing.assert_allclose(picks.importance, expected, rtol=1e-4)
            else:
                np.testing.assert_array_equal(picks.importance, 1.0)
            error = rng.normal(size=row.shape).astype(np.float32) * rng.choice([0.01, 1, 5])
            ring = store.rate(ring, picks, jnp.asarray(error))
            plain.rate(numbers, error)
        found = {
            written - 1 - (written - 1 - i) % rows: p for i, p in enumerate(np.asarray(ring.levels[0])[:rows]) if p
        }
        assert found.keys() == plain.priority.keys()
        np.testing.assert_allclose([found[i] for i in plain.priority], list(plain.priority.values()), rtol=1e-5)
        np.testing.assert_allclose(ring.largest, plain.largest, rtol=1e-5)
        check_sums(ring.levels)
        np.testing.assert_array_equal(np.asarray(ring.levels[0])[rows:], 0)


def rated(shape=(2, 2, 20), n=3, batch_size=8, use_cer=False, rollouts=27):
    """A full memory whose rows have priorities of all sizes: `(store, ring, frame)`."""
    _, store = memory_of(shape, n, 1, batch_size, use_cer)
    stream, ring = Stream(0, *shape[:2]), store.init()
    for _ in range(rollouts):
        ring = store.add(ring, stream.rollout(), 0.9, len(stream.frames) - shape[0] * shape[1])
    rows = shape[0] * shape[1] * shape[2]
    error = jnp.asarray(np.random.default_rng(0).exponential(size=(1, rows)), jnp.float32)
    picks = prioritized.WeightedPicks(jnp.arange(rows)[None], jnp.ones((1, rows)))
    return store, store.rate(ring, picks, error), len(stream.frames)


def test_rows_are_drawn_as_often_as_their_priority_says():
    store, ring, frame = rated()
    many = jax.vmap(lambda key: store.sample(ring, key, frame).row)(jax.random.split(jax.random.key(0), 2000))
    leaves = np.asarray(ring.levels[0], np.float64)
    counts = np.bincount(np.asarray(many).ravel(), minlength=len(leaves))
    drawn = leaves > 0
    assert (~drawn).sum() == 4, "two environments, two steps that wait for the third"
    assert counts[~drawn].sum() == 0
    expected = leaves[drawn] / leaves.sum() * counts.sum()
    assert stats.chisquare(counts[drawn], expected).pvalue > FAIR
    assert stats.chisquare(counts[drawn]).pvalue < ABSURD, "the mutant: drawn uniformly"
    assert stats.chisquare(counts[drawn], expected**0.9 / (expected**0.9).sum() * counts.sum()).pvalue < ABSURD


def test_draws_are_stratified():
    store, ring, frame = rated(batch_size=64)
    leaves = np.asarray(ring.levels[0], np.float64)
    share = 64 * leaves / leaves.sum()
    for seed in range(20):
        for batch in np.asarray(store.sample(ring, jax.random.key(seed), frame).row):
            assert (np.abs(np.bincount(batch, minlength=len(leaves)) - share) < 2).all()
    independent = np.random.default_rng(0).choice(len(leaves), (60, 64), p=leaves / leaves.sum())
    assert max(np.abs(np.bincount(batch, minlength=len(leaves)) - share).max() for batch in independent) > 2


def test_combined_replay_puts_the_newest_first_and_draws_the_rest_by_priority():
    store, ring, frame = rated(batch_size=8, use_cer=True)
    many = np.asarray(
        jax.vmap(lambda key: store.sample(ring, key, frame).row)(jax.random.split(jax.random.key(0), 2000))
    )
    ages = (frame - 1 - many) % 80
    assert (np.sort(ages[..., :2], -1) == [4, 5]).all(), "the newest whose windows of three steps are complete"
    leaves = np.asarray(ring.levels[0], np.float64)[:80]
    counts = np.bincount(many[..., 2:].ravel(), minlength=80)
    expected = leaves[leaves > 0] / leaves.sum() * counts.sum()
    assert stats.chisquare(counts[leaves > 0], expected).pvalue > FAIR


def test_importance_is_one_where_nothing_is_preferred_and_never_above():
    priority = jnp.asarray([[1.0, 4.0, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    found = prioritized.importance(priority, 0.5)
    np.testing.assert_allclose(found, [[1, 0.5, 1], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(prioritized.importance(priority, 0.0), 1.0)


def test_sessions_draw_differently_and_one_key_the_same():
    store, ring, frame = rated()
    one, again, other = (np.asarray(store.sample(ring, jax.random.key(k), frame).row) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len({batch.tobytes() for batch in one}) == 3


# ------------------------------------------------------------------------------------------------------ in an algorithm

PER = {"name": "PrioritizedReplay"}


def test_importance_weights_take_the_bias_of_priorities_away():
    """A prize of 1 with probability 0.1 is worth 0.1. Preferring what surprises, without the weights, finds 0.25."""
    found = {}
    for beta in (1.0, 0.0):
        changes = {"memory": PER | {"alpha": 1.0, "beta_spec": beta, "batch_size": 128}, "net": {"polyak_coef": 1.0}}
        spec = spec_of("DQN", "probes:lottery", 12_000, **changes)
        found[beta] = values(slmjax.train(spec, sessions=3), [0.0]).mean()
    assert abs(found[1.0] - 0.1) < 0.04
    assert found[0.0] > 0.18, "the mutant: no importance weights"


@pytest.mark.parametrize("algorithm", ["DQN", pytest.param("DoubleDQN", marks=pytest.mark.slow)])
def test_a_later_reward_is_discounted(algorithm):
    memory = PER | {"num_step_returns": 1}
    spec = spec_of(algorithm, "probes:delayed_reward", 12_000, memory=memory, algorithm={"gamma": 0.5})
    found = values(slmjax.train(spec, sessions=3), [0.0, 1.0])
    np.testing.assert_allclose(found, np.broadcast_to([0.5, 1.0], found.shape), atol=0.03)


def trial_of(memory, sessions=2, frames=1024):
    meta = {"max_session": sessions, "log_frequency": 256, "eval_episodes": 2}
    return make_trial(spec_of("DQN", "CartPole-v1", frames, meta=meta, memory=memory))


def test_priorities_are_part_of_the_session_and_resume_with_it():
    trial = trial_of(PER | {"num_step_returns": 3, "max_size": 256})
    runs = []
    for stops in ((1024,), (256, 512, 1024)):
        sessions, frame = trial.population.init(trial.keys, trial.hp), 0
        for stop in stops:
            sessions, _ = trial.population.segment(sessions, trial.hp, frame, stop)
            frame = stop
        runs.append(trial.population.gather(sessions))
    whole, cut = (jax.tree.leaves((run.agent.policy, run.agent.memory)) for run in runs)
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))
    leaves = np.asarray(runs[0].agent.memory.levels[0])
    assert (leaves[0] != leaves[1]).any()
    assert len(np.unique(leaves[0])) > 50


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_compiled_program_copies_neither_the_ring_nor_the_tree(n):
    rows = 4096
    trial = trial_of(PER | {"max_size": rows, "num_step_returns": n})
    text = trial.population.lower(trial.population.init(trial.keys, trial.hp), trial.hp).compile(AS_USERS_DO).as_text()
    large = rf"= \w+\[(1,)?({rows}|{rows // 8})[\],]"
    assert re.search(large, text), "ring and tree are there"
    assert not [line for line in text.splitlines() if re.search(large + r".* (copy|select)\(", line)]
