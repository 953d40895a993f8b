"""What a network is shown: acting and learning see the same frames, and no stack reaches into another episode."""

import re
from collections import deque
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import slow_ones, spec_of
from compiling import AS_USERS_DO
from hypothesis import given, settings
from hypothesis import strategies as st
from rings import BYTES, FLOATS, Stream, ends, shapes_only

import slmjax
from slmjax import registry
from slmjax.lab.trial import make_trial
from slmjax.memory.frame_stack import frame_stack, stack_rollout, stack_rows
from slmjax.memory.keys import MemoryKeys
from slmjax.memory.replay import Replay, make
from slmjax.memory.ring import Ring
from slmjax.spec import schema
from slmjax.spec.dump import to_dict
from slmjax.types import Box, Dict, Discrete, MultiBinary, SpecError

GAMMA = 0.9
SEED_NAMES = (
    "OnPolicyReplay OnPolicySeqReplay OnPolicyBatchReplay OnPolicySeqBatchReplay OnPolicyConcatReplay "
    "OnPolicyAtariReplay OnPolicyImageReplay Replay SeqReplay SILReplay SILSeqReplay ConcatReplay AtariReplay "
    "ImageReplay PrioritizedReplay AtariPrioritizedReplay"
).split()


def seen_by(stream, length):
    """What an agent with a deque of `length` frames would have seen at each row, `[N, length, *obs]`, oldest first.

    And what it would have seen next, had the true successor come instead of a reset.
    """
    blank, shown, after = np.zeros_like(stream.frames[0]["obs"]), [], []
    held = [deque([blank] * length, length) for _ in range(stream.envs)]
    for number, row in enumerate(stream.frames):
        past = held[number % stream.envs]
        past.append(row["obs"])
        shown.append(list(past))
        after.append([*list(past)[1:], row["final_obs"]])
        if ends(row):
            past.extend([blank] * length)
    return np.array(shown), np.array(after)


def joined(frames, op):
    """Frames `[..., k, *obs]` of bytes or floats as a network gets them; observations of one or two axes."""
    moved = np.moveaxis(frames, 1, -1)
    if op == "stack":
        return moved
    return np.concatenate([frames[:, i] for i in range(frames.shape[1])], -1)


# -------------------------------------------------------------------------------------------------------------- acting


@pytest.mark.parametrize("invalid", [False, True])
@pytest.mark.parametrize(("length", "op", "space"), [(1, "stack", BYTES), (3, "stack", BYTES), (4, "concat", FLOATS)])
def test_acting_keeps_the_last_frames_and_forgets_them_where_an_episode_ends(length, op, space, invalid):
    stream = Stream(0, 5, 3, space, invalid=invalid)
    stack = frame_stack(MemoryKeys(stack_len=length, stack_op=op), space)
    carry, shown = stack.carry(3), []
    see = jax.jit(stack.push)
    for _ in range(8):
        rollout = stream.rollout()
        for t in range(5):
            x, carry = see(rollout.obs[t], carry)
            shown.append(np.asarray(x))
            new = np.asarray(rollout.resets[t])  # as `session.collect` does
            carry = jax.tree.map(lambda c: jnp.where(new[:, None, *[None] * len(space.shape)], 0, c), carry)  # noqa: B023
    frames, _ = seen_by(stream, length)
    expected = joined(frames, op) if length > 1 else frames[:, 0]
    np.testing.assert_array_equal(np.concatenate(shown), expected)
    assert shown[0].dtype == space.dtype
    assert shown[0].shape[1:] == stack.space.shape


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_rollout_is_stacked_as_it_was_seen(length):
    stream = Stream(1, 6, 3, BYTES)
    stack = frame_stack(MemoryKeys(stack_len=length), BYTES)
    carry, rows = stack.carry(3), jax.jit(lambda rollout, carry: stack_rollout(stack, rollout, carry))
    found = []
    for _ in range(4):
        rollout = stream.rollout()
        found.append(rows(rollout, carry))
        for t in range(6):
            _, carry = stack.push(rollout.obs[t], carry)
            new = np.asarray(rollout.resets[t])
            carry = jax.tree.map(lambda c: jnp.where(new[:, None, None, None], 0, c), carry)  # noqa: B023
    for got, frames in zip(zip(*found, strict=True), seen_by(stream, length), strict=True):
        expected = joined(frames, "stack") if length > 1 else frames[:, 0]
        np.testing.assert_array_equal(np.concatenate(got).reshape(expected.shape), expected)


def test_the_carry_of_the_session_is_that_of_the_view():
    trial = make_trial(spec_of("DQN", "CartPole-v1", 512, meta={"max_session": 2}, memory={"name": "ConcatReplay"}))
    batches = trial.population.init(trial.keys, trial.hp)
    assert batches[0].carry[0].shape == (2, 4, 3, 4)
    sessions = trial.population.gather(trial.population.segment(batches, trial.hp, 0, 512)[0])
    ring, carry = sessions.agent.memory, np.asarray(sessions.carry[0])
    frames = jax.vmap(lambda r: stack_rows(r, jnp.arange(508, 512), 3, num_envs=4, frame=512))(ring)
    ended = np.asarray(ring.terminated | ring.truncated)[:, 508:512]
    expected = np.where(ended[..., None, None], 0, np.asarray(frames))
    np.testing.assert_array_equal(carry, expected)
    assert (np.asarray(ring.terminated | ring.truncated)[:, :508]).any()


# ------------------------------------------------------------------------------------------------------------ learning

SHAPES = [(1, 1, 9), (2, 2, 5), (3, 2, 4), (1, 3, 8), (8, 2, 1)]  # T, E, rollouts that the ring holds


@cache
def store_of(shape, length, n, op="stack"):
    steps, envs, held = shape
    spec = Replay(max_size=steps * envs * held, batch_size=8, stack_len=length, num_step_returns=n, stack_op=op)
    store = make(spec, shapes_only(envs, BYTES), steps * envs)
    sample = jax.jit(lambda ring, key, frame: store.sample(spec, ring, key, 8, frame))
    gather = jax.jit(lambda ring, row, frame: store.gather(spec, ring, row, GAMMA, frame))
    add = jax.jit(lambda ring, rollout, frame: store.add(ring, rollout, GAMMA, frame))
    return store._replace(add=add, sample=sample, gather=gather)


def play(seed, shape, length, n, rollouts, invalid=False):
    steps, envs, _ = shape
    stream, store = Stream(seed, steps, envs, BYTES, invalid=invalid), store_of(shape, length, n)
    ring = store.init()
    for _ in range(rollouts):
        ring = store.add(ring, stream.rollout(), len(stream.frames) - steps * envs)
    return stream, store, ring


def returns(stream, number, n, frame):
    """`(return, discount, row to bootstrap from)` by a loop; None where nothing can be learned from a row.

    The successor of a row is the row after it, unless it terminated; a truncated one's was not stored.
    """

    def stored(i):
        row = stream.frames[i]
        return row["terminated"] or (not row["truncated"] and i + stream.envs < frame)

    if not (stream.frames[number]["valid"] and stored(number)):
        return None
    total, factor, here = 0.0, 1.0, number
    for k in range(n):
        total, factor = total + factor * float(stream.frames[here]["reward"]), factor * GAMMA
        if stream.frames[here]["terminated"]:
            return total, 0.0, None
        if k == n - 1 or not stored(here + stream.envs):
            break
        here += stream.envs
    return total, factor, here + stream.envs


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(SHAPES), st.integers(1, 12), st.sampled_from([(2, 1), (4, 1), (3, 3)]),
       st.booleans())  # fmt: skip
def test_learning_sees_what_acting_saw_and_bootstraps_from_what_it_saw_next(seed, shape, rollouts, kind, invalid):
    length, n = kind
    steps, envs, held = shape
    rows = steps * envs * held
    if rows < (n + length) * envs:
        return
    stream, store, ring = play(seed, shape, length, n, rollouts, invalid)
    frame = len(stream.frames)
    shown = joined(seen_by(stream, length)[0], "stack")
    drawn = np.asarray(store.sample(ring, jax.random.key(seed), frame))
    for batch in drawn:
        found = jax.tree.map(np.asarray, store.gather(ring, batch, frame))
        for i, number in enumerate(frame - 1 - (frame - 1 - batch) % rows):
            wanted = returns(stream, number, n, frame)
            assert found.weight[i] == (wanted is not None)
            np.testing.assert_array_equal(found.obs[i], shown[number])
            if wanted:
                assert found.r_t[i] == pytest.approx(wanted[0], rel=1e-5, abs=1e-6)
                assert found.discount_t[i] == pytest.approx(wanted[1], rel=1e-6)
                if wanted[1]:
                    np.testing.assert_array_equal(found.final_obs[i], shown[wanted[2]])


def test_a_stack_that_crosses_an_episode_would_be_caught(monkeypatch):
    """The mutant: no row is a boundary."""
    stream, _, ring = play(0, (3, 2, 4), 3, 1, 4)
    index, shown = jnp.arange(24), seen_by(stream, 3)[0]
    np.testing.assert_array_equal(stack_rows(ring, index, 3, num_envs=2, frame=24), shown)
    monkeypatch.setattr(Ring, "resets", lambda ring, at: jnp.zeros(at.shape, bool))
    crossed = np.asarray(stack_rows(ring, index, 3, num_envs=2, frame=24))
    assert (crossed != shown).any(axis=(1, 2, 3)).sum() > 3


def test_a_stack_whose_frames_were_overwritten_is_never_drawn():
    stream, store, ring = play(0, (2, 2, 5), 4, 1, 13)
    frame = len(stream.frames)
    drawn = np.asarray(jax.vmap(lambda key: store.sample(ring, key, frame))(jax.random.split(jax.random.key(0), 200)))
    ages = np.unique((frame - 1 - drawn) % 20)
    np.testing.assert_array_equal(ages, np.arange(2, 20 - 3 * 2))


def test_each_frame_is_stored_once_in_bytes():
    ring = store_of((2, 2, 5), 4, 1).init()
    assert (ring.obs.shape, ring.obs.dtype) == ((20, 2, 3), jnp.uint8)
    assert [x.shape for x in jax.tree.leaves(ring) if x.ndim > 1] == [(20, 2, 3)]
    assert ring.owner == ()


def test_the_signs_of_rewards_are_learned_from_where_asked():
    spec = Replay(max_size=8, batch_size=4, reward_op="sign")
    store, stream = make(spec, shapes_only(2), 4), Stream(0, 2, 2)
    ring = store.add(store.init(), stream.rollout(), GAMMA, 0)
    expected = np.sign([row["reward"] for row in stream.frames])
    np.testing.assert_array_equal(store.gather(spec, ring, jnp.arange(4), 0.9, 4).r_t, expected)
    assert (np.abs([row["reward"] for row in stream.frames]) != 1).all()


# -------------------------------------------------------------------------------------------------------------- spaces


def test_the_space_of_a_view_is_that_of_what_it_shows():
    both = Dict({"image": BYTES, "speed": FLOATS})
    for space in (BYTES, FLOATS, both, Box(1.0, 2.0, ())):
        for op in ("stack", "concat"):
            if op == "concat" and space is not both and not space.shape:
                continue
            stack = frame_stack(MemoryKeys(stack_len=3, stack_op=op), space)
            obs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 5))
            x, _ = stack.push(obs, stack.carry(5))
            parts = [(x, stack.space)] if space is not both else [(x[k], stack.space.spaces[k]) for k in x]
            for value, part in parts:
                assert (value.shape[1:], value.dtype) == (part.shape, part.dtype)
                assert ((value >= part.low) & (value <= part.high)).all(), "zeros before the first frame included"


def test_a_memory_that_knows_nothing_of_views_shows_observations_as_they_are():
    for spec in (None, object(), Replay()):
        stack = frame_stack(spec, Discrete(3))
        assert stack.space == Discrete(3)
        assert stack.carry(2) == ()
        np.testing.assert_array_equal(stack.push(jnp.array([1, 2]), ())[0], [1, 2])


IMPOSSIBLE = [
    ({"stack_len": 2}, Discrete(3), "stack_len", "Box"),
    ({"stack_len": 2}, Dict({"a": MultiBinary(2)}), "stack_len", "Box"),
    ({"stack_len": 2, "stack_op": "concat"}, Box(-1, 1), "stack_op", "axis"),
]


@pytest.mark.parametrize(("keys", "space", "key", "word"), IMPOSSIBLE)
def test_what_cannot_be_shown_says_so(keys, space, key, word):
    with pytest.raises(SpecError, match=word) as error:
        frame_stack(MemoryKeys(**keys), space)
    assert error.value.path == f"agent.memory.{key}"


def test_a_ring_too_small_for_its_stacks_says_how_many_fit():
    with pytest.raises(SpecError, match="at most 2 in a memory of 12") as error:
        make(Replay(max_size=12, batch_size=4, stack_len=3, num_step_returns=2), shapes_only(3), 3)
    assert error.value.path == "agent.memory.stack_len"
    make(Replay(max_size=12, batch_size=4, stack_len=2, num_step_returns=2), shapes_only(3), 3)


# --------------------------------------------------------------------------------------------------------------- names


def spec_with(name, **keys):
    rollout = registry.resolve("memory", name).kind == "rollout"
    return spec_of("PPO" if rollout else "DQN", "CartPole-v1", 512, memory={"name": name, **keys})


def test_every_name_of_the_seed_resolves():
    assert set(SEED_NAMES) <= set(registry.names("memory"))
    assert len({registry.resolve("memory", name).hyper for name in SEED_NAMES}) == 4, "few parts"
    for name in SEED_NAMES:
        memory = registry.resolve("memory", name)
        assert set(memory.preset) <= set(schema.hints(memory.hyper))
        if memory.make:
            store = memory.make(memory.hyper(name=name, **memory.preset), shapes_only(2, BYTES), 4)
            assert store.capacity == 10_000


def test_a_name_presets_keys_that_a_spec_may_set():
    atari = spec_of("DQN", "CartPole-v1", 512, memory={"name": "AtariPrioritizedReplay"}).agent.memory
    assert (atari.name, atari.stack_len, atari.reward_op, atari.alpha) == ("AtariPrioritizedReplay", 4, "sign", 0.6)
    other = spec_of("DQN", "CartPole-v1", 512, memory={"name": "AtariReplay", "stack_len": 2})
    assert (other.agent.memory.stack_len, other.agent.memory.reward_op) == (2, "sign")
    assert slmjax.load_spec(to_dict(other)).agent == other.agent
    on_policy = spec_of("PPO", "CartPole-v1", 512, memory={"name": "OnPolicyConcatReplay"}).agent.memory
    assert (on_policy.stack_len, on_policy.stack_op) == (4, "concat")


# ------------------------------------------------------------------------------------------------------ in an algorithm

COOLING = {"net": {"optim_spec": {"lr": {"start_val": 1e-2, "end_val": 1e-4, "end_step": 12_000}}}}


SEEING_TWO = {  # the memories of an algorithm, and frames to learn with them
    "DQN": (("ConcatReplay", "AtariPrioritizedReplay"), 12_000),
    "SoftActorCritic": (("ConcatReplay",), 12_000),
    "SARSA": (("OnPolicyConcatReplay",), 20_000),
    "PQN": (("OnPolicyAtariReplay",), 20_000),
    "ActorCritic": (("OnPolicyConcatReplay",), 30_000),
    "PPO": (("OnPolicyAtariReplay",), 20_000),
    "PPOSIL": (("SILReplay",), 20_000),
    "Reinforce": (("OnPolicyConcatReplay",), 40_000),
}


QUICK = (("DQN", "AtariPrioritizedReplay"),)
PAIRS = [(k, name) for k, (names, _) in SEEING_TWO.items() for name in names]


@pytest.mark.parametrize(("which", "name"), slow_ones(PAIRS, {*PAIRS} - {*QUICK}))
def test_two_frames_tell_what_one_does_not(which, name):
    memory = {"name": name, "stack_len": 2}
    changes = {"algorithm": {"gamma": 0.5}, **COOLING}
    result = slmjax.train(
        spec_of(which, "probes:previous_sign", SEEING_TWO[which][1], memory=memory, **changes), sessions=3
    )
    assert (result.eval_reward == 7.0).all()


def test_one_frame_does_not_tell():
    changes = {"algorithm": {"gamma": 0.5}, **COOLING}
    result = slmjax.train(spec_of("DQN", "probes:previous_sign", 12_000, **changes), sessions=3)
    assert result.eval_reward.max() < 4


@pytest.mark.parametrize("name", ["ConcatReplay", pytest.param("AtariPrioritizedReplay", marks=pytest.mark.slow)])
def test_the_compiled_program_copies_no_ring_of_frames(name):
    memory = {"name": name, "max_size": 4096}
    trial = make_trial(spec_of("DQN", "CartPole-v1", 1024, meta={"max_session": 2}, memory=memory))
    text = trial.population.lower(trial.population.init(trial.keys, trial.hp), trial.hp).compile(AS_USERS_DO).as_text()
    ring = r"= \w+\[(?:[12],)?4096[\],]"
    assert re.search(ring, text), "the ring is there"
    assert not [line for line in text.splitlines() if re.search(ring + r".* (copy|select)\(", line)]
