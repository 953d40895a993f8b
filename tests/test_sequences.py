"""Windows of a ring, and returns of whole episodes, against loops over what was written."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rings import BYTES, FLOATS, Stream, ends, shapes_only
from scipy import stats
from test_views import joined, seen_by

from slmjax.memory import episodes, prioritized, sequences
from slmjax.memory.episodes import EpisodeReplay
from slmjax.memory.prioritized import PrioritizedReplay
from slmjax.memory.replay import Replay
from slmjax.types import SpecError

FAIR, GAMMA = 1e-3, 0.9


@cache
def window_store(shape, seq_len, burn_in, stack_len, batches):
    """A store of windows, its functions of data compiled."""
    steps, envs, held = shape
    spec = Replay(max_size=steps * envs * held, batch_size=4, seq_len=seq_len, burn_in=burn_in, stack_len=stack_len)
    store = sequences.make(spec, shapes_only(envs, BYTES if stack_len > 1 else FLOATS), steps * envs)
    sample = jax.jit(lambda ring, key, frame: store.sample(spec, ring, key, batches, frame))
    gather = jax.jit(lambda ring, start, frame: store.gather(spec, ring, start, GAMMA, frame))
    return store._replace(add=jax.jit(store.add), sample=sample, gather=gather)


def windows(shape, seq_len, burn_in, rollouts, seed=0, stack_len=1, invalid=False, batches=6):
    """A stream, windows of it as drawn `[batches, B]`, and the sequences of each batch."""
    steps, envs, _ = shape
    store = window_store(shape, seq_len, burn_in, stack_len, batches)
    stream = Stream(seed, steps, envs, BYTES if stack_len > 1 else FLOATS, invalid=invalid)
    ring = store.init()
    for _ in range(rollouts):
        ring = store.add(ring, stream.rollout(), GAMMA, len(stream.frames) - steps * envs)
    frame = len(stream.frames)
    starts = np.asarray(store.sample(ring, jax.random.key(seed), frame))
    numbers = frame - 1 - (frame - 1 - starts) % store.capacity
    return stream, numbers, [jax.tree.map(np.asarray, store.gather(ring, batch, frame)) for batch in starts[:6]]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([(1, 1, 12), (2, 2, 6), (4, 3, 3)]), st.integers(1, 9),
       st.sampled_from([(1, 0), (3, 0), (4, 2)]), st.booleans())  # fmt: skip
def test_a_window_is_what_was_written_and_never_crosses_the_head(seed, shape, rollouts, kind, invalid):
    seq_len, burn_in = kind
    stream, numbers, found = windows(shape, seq_len, burn_in, rollouts, seed, invalid=invalid)
    length, frame = seq_len + burn_in, len(stream.frames)
    for batch, sequence in zip(numbers, found, strict=True):
        assert sequence.r_t.shape == (length, 4)
        for b, start in enumerate(batch):
            for t in range(length):
                number = start + t * stream.envs
                if number >= frame:
                    assert frame < (length + 1) * stream.envs, "only while no window is complete"
                    assert sequence.weight[t, b] == 0
                    continue
                row = stream.frames[number]
                assert sequence.weight[t, b] == (row["valid"] and t >= burn_in)
                np.testing.assert_array_equal(sequence.obs[t, b], row["obs"])
                if not row["terminated"]:
                    np.testing.assert_array_equal(sequence.final_obs[t, b], row["final_obs"])
                assert sequence.action[t, b] == row["action"]
                assert sequence.r_t[t, b] == row["reward"]
                assert sequence.discount_t[t, b] == np.float32(0.0 if row["terminated"] else GAMMA)
                assert sequence.resets[t, b] == ends(row)
                assert sequence.last[t, b] == t


def test_windows_of_stacks_show_what_acting_saw():
    stream, numbers, found = windows((2, 2, 10), 4, 1, 17, stack_len=3)
    shown, frame = joined(seen_by(stream, 3)[0], "stack"), len(stream.frames)
    learned = 0
    for batch, sequence in zip(numbers, found, strict=True):
        for b, start in enumerate(batch):
            for t in range(5):
                number = start + t * 2
                assert number < frame
                row = stream.frames[number]
                np.testing.assert_array_equal(sequence.obs[t, b], shown[number])
                assert sequence.weight[t, b] == (t >= 1 and not row["truncated"])
                if not ends(row):
                    np.testing.assert_array_equal(sequence.final_obs[t, b], shown[number + 2])
                learned += sequence.weight[t, b]
    assert learned > 50


def test_windows_begin_anywhere_with_one_probability():
    stream, numbers, _ = windows((2, 2, 6), 4, 1, 17, batches=1500)
    age = len(stream.frames) - 1 - numbers
    counts = np.bincount(age.ravel(), minlength=24)
    assert counts[:8].sum() == 0, "the last of five steps must have been written"
    assert stats.chisquare(counts[8:]).pvalue > FAIR


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 8))
def test_n_step_returns_end_with_the_episode_or_the_window(seed, n, length):
    rng = np.random.default_rng(seed)
    reward, terminated, truncated, able = (
        rng.normal(size=(length, 3)), *(rng.random((length, 3)) < p for p in (0.2, 0.2, 0.9))
    )  # fmt: skip
    discount, ended = GAMMA * (1.0 - terminated), terminated | truncated
    found = sequences.n_step(*(jnp.asarray(x, jnp.float32) for x in (reward, discount)), ended, able, n)
    for b in range(3):
        for t in range(length):
            total, factor, last = reward[t, b], discount[t, b], t
            while last - t + 1 < n and not ended[last, b] and last + 1 < length and able[last + 1, b]:
                last += 1
                total, factor = total + factor * reward[last, b], factor * discount[last, b]
            np.testing.assert_allclose([x[t, b] for x in found], [total, factor, last], rtol=1e-5, atol=1e-6)


def test_combined_windows_end_with_the_newest_step_of_each_environment():
    spec = Replay(max_size=24, batch_size=8, seq_len=3, burn_in=1, use_cer=True)
    store = sequences.make(spec, shapes_only(2), 4)
    starts = np.asarray(store.sample(spec, store.init(), jax.random.key(0), 5, 24))
    np.testing.assert_array_equal(starts[:, :2], [[17, 16]] * 5)  # four steps before frame 24: rows 22 and 23


def test_priorities_of_windows_are_those_of_whole_windows():
    error = jnp.array([[[0.0, 0.0], [1.0, -4.0], [-3.0, 2.0]]])  # one batch, L = 3 with a burn-in of 1, B = 2
    spec = PrioritizedReplay(seq_len=2, burn_in=1)
    np.testing.assert_allclose(prioritized.of_windows(spec, error), [[0.9 * 3 + 0.1 * 2, 0.9 * 4 + 0.1 * 3]])


def test_only_complete_windows_have_a_priority():
    spec = PrioritizedReplay(max_size=24, batch_size=4, seq_len=3, burn_in=1, beta_spec=0.5)
    store = prioritized.make_windows(spec, shapes_only(2), 4)
    stream, state = Stream(0, 2, 2, FLOATS), store.init()
    for _ in range(8):
        state = store.add(state, stream.rollout(), GAMMA, len(stream.frames) - 4)
    age = (len(stream.frames) - 1 - np.arange(24)) % 24
    np.testing.assert_array_equal(np.asarray(state.levels[0])[:24] > 0, age >= 6)
    picks = store.sample(spec, state, jax.random.key(0), 3, len(stream.frames))
    batch = store.gather(spec, state, jax.tree.map(lambda x: x[0], picks), GAMMA, len(stream.frames))
    assert batch.importance.shape == batch.weight.shape == (4, 4)
    rated = store.rate(spec, state, picks, jnp.full((3, 4, 4), 5.0))
    np.testing.assert_allclose(np.asarray(rated.levels[0])[np.asarray(picks.row)], (4.5 + 0.5 * 4 / 3 + 1e-4) ** 0.6)


REFUSED = [
    ({"seq_len": 12}, "seq_len", "at most 11 in a memory of 24"),
]


@pytest.mark.parametrize(("keys", "key", "words"), REFUSED)
def test_what_windows_cannot_do_says_so(keys, key, words):
    spec = Replay(**{"max_size": 24, "batch_size": 4, "seq_len": 4, "burn_in": 1, **keys})
    with pytest.raises(SpecError, match=words) as error:
        sequences.make(spec, shapes_only(2), 4)
    assert error.value.path == f"agent.memory.{key}"
    sequences.make(Replay(max_size=24, batch_size=4, seq_len=11, burn_in=1), shapes_only(2), 4)


# ------------------------------------------------------------------------------------------------- returns of episodes


@cache
def episode_store(shape):
    """A store of whole episodes, its functions of data compiled."""
    steps, envs, held = shape
    spec = EpisodeReplay(max_size=steps * envs * held, batch_size=min(steps * envs * held, 6))
    store = episodes.make(spec, shapes_only(envs), steps * envs)
    sample = jax.jit(lambda ring, key, frame: store.sample(spec, ring, key, 8, frame))
    gather = jax.jit(lambda ring, pick, frame: store.gather(spec, ring, pick, GAMMA, frame))
    return store._replace(add=jax.jit(store.add), sample=sample, gather=gather)


def true_returns(stream, values):
    """The return of every row by a loop to the end of its episode; None while it is under way."""
    found = []
    for number in range(len(stream.frames)):
        total, factor, here = 0.0, 1.0, number
        while here < len(stream.frames):
            row = stream.frames[here]
            total, factor = total + factor * float(row["reward"]), factor * GAMMA
            if row["truncated"]:
                total += factor * values[here]
            if ends(row):
                break
            here += stream.envs
        found.append(total if here < len(stream.frames) else None)
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(1, 1, 9), (2, 3, 4), (5, 2, 3), (3, 2, 1)]), st.integers(1, 10),
       st.sampled_from([0.0, 0.05, 0.3]), st.booleans())  # fmt: skip
def test_returns_are_those_of_whole_episodes_however_rollouts_cut_them(seed, shape, rollouts, p_end, invalid):
    steps, envs, held = shape
    rows, store = steps * envs * held, episode_store(shape)
    stream, rng = Stream(seed, steps, envs, p_end=p_end, invalid=invalid), np.random.default_rng(seed)
    ring, values = store.init(), []
    for _ in range(rollouts):
        v_t = rng.normal(size=(steps, envs)).astype(np.float32)
        ring = store.add(ring, stream.rollout()._replace(final_value=v_t), GAMMA, len(values))
        values += v_t.ravel().tolist()
    frame = len(values)
    oracle = true_returns(stream, values)
    picks = store.sample(ring, jax.random.key(seed), frame)
    numbers = frame - 1 - (frame - 1 - np.asarray(picks.row)) % rows
    for number, got, weight in zip(numbers.ravel(), picks.returns.ravel(), picks.weight.ravel(), strict=True):
        known = oracle[number] is not None and stream.frames[number]["valid"]
        assert weight == known
        if known:
            np.testing.assert_allclose(got, oracle[number], rtol=1e-4, atol=1e-4)
    pick = jax.tree.map(lambda x: x[0], picks)
    batch = store.gather(ring, pick, frame)
    np.testing.assert_array_equal(batch.r_t, pick.returns)
    np.testing.assert_array_equal(batch.discount_t, 0)
    np.testing.assert_array_equal(batch.weight, pick.weight)
    np.testing.assert_array_equal(batch.obs, np.stack([stream.frames[i]["obs"] for i in numbers[0]]))


def test_a_return_that_stops_at_its_rollout_would_be_caught():
    """The mutant: what SLM Lab's later versions learned from, the reward to the end of what is at hand."""
    stream = Stream(0, 4, 1, p_end=0.1)
    rollouts = [stream.rollout() for _ in range(12)]
    oracle = true_returns(stream, [0.0] * 48)
    short = []
    for rollout in rollouts:
        ended = rollout.terminated | rollout.truncated
        short += np.asarray(episodes.gains(rollout.reward, ended, jnp.zeros((4, 1)), GAMMA)[0]).ravel().tolist()
    assert sum(r is not None and abs(r - s) > 0.01 for r, s in zip(oracle, short, strict=True)) > 10


@pytest.mark.parametrize(("key", "value"), [("num_step_returns", 3), ("use_cer", True)])
def test_episodes_have_no_use_for_some_keys(key, value):
    with pytest.raises(SpecError) as error:
        episodes.make(EpisodeReplay(**{key: value}), shapes_only(2), 4)
    assert error.value.path == f"agent.memory.{key}"
