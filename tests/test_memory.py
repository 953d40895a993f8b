"""The replay ring against a plain deque: what it keeps, what it draws, what n-step returns it makes of it."""

from collections import deque
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import AS_USERS_DO
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from slmjax.envs import make_env, vectorize
from slmjax.memory import replay
from slmjax.memory import ring as ring_module
from slmjax.memory.replay import Replay
from slmjax.memory.ring import BLOCK, Ring, block_length, init
from slmjax.spec.sections import EnvSpec
from slmjax.types import Box, Dict, Discrete, Env, MultiBinary, MultiDiscrete, Rollout, SpecError, narrow, widen

FAIR, ABSURD = 1e-3, 1e-9
GAMMA = 0.9

# (T, E, rollouts that the ring holds): one environment or several, long rollouts, a ring of a single rollout
SHAPES = [(1, 1, 5), (1, 3, 4), (2, 2, 3), (4, 2, 2), (3, 1, 1), (5, 3, 3)]


def observe(number):
    """What is seen at frame `number`: a row says where it came from. The one `-number - 1` is seen at an end alone."""
    number = np.int32(number)
    return {"frame": number, "pixels": np.uint8((number[..., None, None] * 97 + np.arange(6).reshape(2, 3) * 31) % 256)}


def make_rollout(rng, steps, envs, frame, p_end=0.2):
    """Random rows `[T, E, ...]`, one the successor of another where no episode ends."""
    number = frame + np.arange(steps * envs).reshape(steps, envs)
    valid = rng.random((steps, envs)) < 0.9
    terminated = valid & (rng.random((steps, envs)) < p_end)
    truncated = valid & ~terminated & (rng.random((steps, envs)) < p_end)
    return Rollout(
        obs=observe(number),
        action=np.int32(rng.integers(0, 4, (steps, envs))),
        reward=np.float32(rng.normal(size=(steps, envs))),
        terminated=terminated,
        truncated=truncated,
        final_obs=observe(np.where(terminated | truncated, -number - 1, number + envs)),
        valid=valid,
        extras=np.float32(number),
        carry=(),
    )


def one_row():
    obs = {"frame": jnp.zeros((), jnp.int32), "pixels": jnp.zeros((2, 3), jnp.uint8)}
    flag = jnp.zeros((), bool)
    return Ring(obs, jnp.zeros((), jnp.uint8), jnp.zeros(()), flag, flag, flag)


def empty(rows, envs, max_steps=1):
    """`init` without its compile time, which one test pays for all."""
    shapes = jax.eval_shape(lambda: init(one_row(), rows, num_envs=envs, max_steps=max_steps))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


add = jax.jit(ring_module.add)


@cache
def gather_program(n):
    spec = Replay(num_step_returns=n)
    return jax.jit(lambda ring, i, frame, envs: replay.gather(spec, ring, i, GAMMA, num_envs=envs, frame=frame))


def gatherer(n, envs):
    return lambda ring, index, frame: gather_program(n)(ring, index, frame, envs)


@cache
def sample_program(n, envs, batch_size, batches, use_cer):
    spec = Replay(num_step_returns=n, batch_size=batch_size, use_cer=use_cer)

    def sample(rng, frame, num_envs, rows):
        return replay.sample_indices(
            spec,
            rng,
            batches,
            rows=rows,
            num_envs=envs or num_envs,
            frame=frame,
            lag=replay.lag(spec, envs or num_envs),
        )

    return jax.jit(sample)


def sampler(n, envs, rows, batch_size=8, batches=4, use_cer=False):
    program = sample_program(n, envs if use_cer else 0, batch_size, batches, use_cer)
    return lambda rng, frame: program(rng, frame, envs, rows)


def play(seed, shape, rollouts, max_steps=1):
    """A ring and a deque after the same rollouts: `(ring, deque of (frame number, transition), frame)`.

    Episodes are truncated at random, so only a ring for episodes of one step (`max_steps`) has room for each of them.
    """
    steps, envs, held = shape
    rows, rng = steps * envs * held, np.random.default_rng(seed)
    ring, oracle, frame = empty(rows, envs, max_steps), deque(maxlen=rows), 0
    for _ in range(rollouts):
        rollout = make_rollout(rng, steps, envs, frame)
        ring = add(ring, rollout, frame)
        for t in range(steps):
            for e in range(envs):
                row = {name: jax.tree.map(lambda x: x[t, e], getattr(rollout, name)) for name in Rollout._fields[:7]}  # noqa: B023
                oracle.append((frame + t * envs + e, row))
        frame += steps * envs
    return jax.tree.map(np.asarray, ring), oracle, frame


# ---------------------------------------------------------------------------------------------------- what it remembers


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(SHAPES), st.integers(1, 12))
def test_the_ring_remembers_what_a_deque_remembers(seed, shape, rollouts):
    ring, oracle, _ = play(seed, shape, rollouts)
    rows = len(ring.reward)
    for number, row in oracle:
        kept = jax.tree.map(lambda x: x[number % rows], ring[:-1])  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, list(kept), [row[name] for name in Ring._fields[:-1]])
    written = {number % rows for number, _ in oracle}
    for i in set(range(rows)) - written:
        assert not ring.valid[i]


def test_dtypes_and_structure_are_kept():
    ring, _, _ = play(0, (2, 2, 3), 4)
    fresh = init(one_row(), 12, num_envs=2, max_steps=1)
    for made in (ring, fresh):
        assert jax.tree.structure(made[:-1]) == jax.tree.structure(one_row()[:-1])
        assert jax.tree.map(lambda x: x.dtype, made[:-1]) == jax.tree.map(lambda x: x.dtype, one_row()[:-1])
        assert [len(x) for x in jax.tree.leaves(made[1:-1])] == [12] * 5
        assert {len(x) for x in jax.tree.leaves(made.obs)} == {12 + 2 + 7 * 2}, "rows, newest, truncated"
        assert (made.owner.shape, made.owner.dtype) == ((7, 2), np.uint8)
    assert {str(x.dtype) for x in jax.tree.leaves(fresh)} == {"int32", "uint8", "float32", "bool"}
    assert not any(x.any() for x in jax.tree.leaves(fresh))


def test_the_example_of_an_environment_has_its_shapes_and_the_narrowest_dtypes_that_are_exact():
    grid, many = Box(0.0, 1.0, (4, 4), stored=np.bool_), MultiDiscrete((3, 300))
    space = Dict({"grid": grid, "inner": Dict({"n": Discrete(257)}), "bits": MultiBinary(5), "speed": Box(-1, 1)})
    env = Env(lambda key: None, lambda key, state, action: None, space, many)
    made = ring_module.example(vectorize(env, 3))
    found = {name: (x.shape, str(x.dtype)) for name, x in made.obs.items() if name != "inner"}
    assert found == {"grid": ((4, 4), "bool"), "bits": ((5,), "bool"), "speed": ((), "float32")}
    assert (made.obs["inner"]["n"].shape, made.obs["inner"]["n"].dtype) == ((), jnp.uint16)
    assert (made.action.shape, made.action.dtype) == ((2,), jnp.uint16)
    for n, dtype in ((2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")):
        assert str(narrow(Discrete(n)).dtype) == dtype
        assert int(widen(Discrete(n), jnp.asarray(n - 1).astype(dtype))) == n - 1
        assert widen(Discrete(n), narrow(Discrete(n))).dtype == jnp.int32


@pytest.mark.parametrize(("name", "most"), [("Breakout-MinAtar", 450), ("CartPole-v1", 30)])
@pytest.mark.parametrize("max_size", [10_000, 1_000_000])
def test_a_stored_transition_takes_few_bytes(name, most, max_size):
    env = make_env(EnvSpec(name=name, num_envs=10, max_frame=1))
    store = replay.make(Replay(max_size=max_size), env, 10)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(store.init)))
    assert size / store.capacity < most
    assert size / store.capacity > np.prod(env.observation_space.shape) * (4 if name == "CartPole-v1" else 1)


def test_what_is_stored_narrow_is_read_as_it_was():
    """Observations and actions of every kind, through a store: values and dtypes as the agent saw and played them."""
    space = Dict(
        {"grid": Box(0, 1, (2, 2), stored=np.bool_), "image": Box(0, 255, (3,), jnp.uint8), "n": Discrete(300)}
    )
    env = Env(lambda key: None, lambda key, state, action: None, space, MultiDiscrete((3, 256)), 4)
    spec = Replay(max_size=16, batch_size=4)
    store = replay.make(spec, vectorize(env, 2), 8)
    seen = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 10))
    seen["grid"] = jnp.round(seen["grid"])
    at = lambda first: jax.tree.map(lambda x: x[first : first + 8].reshape(4, 2, *x.shape[1:]), seen)  # noqa: E731
    cut, flag = jnp.zeros((4, 2), bool).at[1, 0].set(True), jnp.zeros((4, 2), bool)
    action = jnp.arange(16, dtype=jnp.int32).reshape(4, 2, 2) * jnp.array([0, 17]) + jnp.array([2, 0])
    ring = store.add(store.init(), Rollout(at(0), action, jnp.ones((4, 2)), flag, cut, at(2), ~flag), 0.9, 0)
    kept = {str(x.dtype) for x in jax.tree.leaves((ring.obs, ring.action))}
    assert kept == {"bool", "uint8", "uint16"}
    batch = store.gather(spec, ring, jnp.arange(8), GAMMA, 8)
    for found, expected in ((batch.obs, at(0)), (batch.final_obs, at(2)), (batch.action, action)):
        expected = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), expected)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


CAPACITIES = [  # max_size, T x E, batch_size, rows
    (100, 1, 32, 100),
    (100, 8, 32, 96),
    (100, 100, 32, 100),
    (64, 8, 64, 64),
]
IMPOSSIBLE = [  # max_size, T x E, batch_size, n, E, words of the message
    (7, 8, 4, 1, 8, ["8", "7", "rollout"], "max_size"),
    (31, 1, 32, 1, 1, ["32", "31", "batch"], "max_size"),
    (33, 4, 33, 1, 4, ["33", "rounded down to 32"], "max_size"),
    (8, 8, 4, 2, 8, ["at most 1", "got 2"], "num_step_returns"),
]


@pytest.mark.parametrize(("max_size", "rollout", "batch", "rows"), CAPACITIES)
def test_a_ring_holds_whole_rollouts(max_size, rollout, batch, rows):
    assert replay.capacity(Replay(max_size=max_size, batch_size=batch), rollout) == rows


@pytest.mark.parametrize(("max_size", "rollout", "batch", "n", "envs", "words", "key"), IMPOSSIBLE)
def test_a_ring_that_is_too_small_says_so(max_size, rollout, batch, n, envs, words, key):
    with pytest.raises(SpecError) as error:
        replay.capacity(Replay(max_size=max_size, batch_size=batch, num_step_returns=n), rollout, envs)
    assert error.value.path == f"agent.memory.{key}"
    assert [word for word in words if word not in str(error.value)] == []


# ---------------------------------------------------------------------------------------------------- what it draws


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from(SHAPES),
    st.integers(1, 8),
    st.sampled_from([(1, False), (2, False), (5, False), (1, True), (3, True)]),
)
@example(0, (4, 2, 2), 1, (3, True))  # the first rollout has fewer complete windows than combined replay wants
def test_only_written_rows_are_drawn(seed, shape, rollouts, kind):
    n, use_cer = kind
    steps, envs, held = shape
    rows = steps * envs * held
    frame = steps * envs * rollouts
    drawn = np.asarray(sampler(n, envs, rows, use_cer=use_cer)(jax.random.key(seed), frame))
    assert drawn.shape == (4, 8)
    assert drawn.dtype == np.int32
    written = {number % rows for number in range(max(0, frame - rows), frame)}
    assert set(drawn.ravel()) <= written
    ages = (frame - 1 - drawn) % rows
    complete = (n - 1) * envs  # younger than this, a window is not written yet
    if min(frame, rows) > complete:
        assert (ages >= complete).all()
    else:
        assert (ages >= min(frame, rows) - envs).all()


@pytest.mark.parametrize(("frame", "n"), [(12, 1), (40, 1), (400, 1), (400, 3)])
def test_draws_are_uniform_over_what_was_written(frame, n):
    drawn = np.asarray(sampler(n, 2, 40, batch_size=100, batches=200)(jax.random.key(frame + n), frame)).ravel()
    ages = (frame - 1 - drawn) % 40
    youngest, oldest = 2 * (n - 1), min(frame, 40)
    counts = np.bincount(ages, minlength=40)
    assert counts[:youngest].sum() == counts[oldest:].sum() == 0
    assert stats.chisquare(counts[youngest:oldest]).pvalue > FAIR
    mutant = counts[youngest:oldest] * np.linspace(1.0, 1.4, oldest - youngest)  # a slight preference for the old
    assert stats.chisquare(mutant, np.full(len(mutant), mutant.mean())).pvalue < ABSURD


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("batch_size", "envs", "fresh"), [(4, 1, 1), (16, 2, 2), (9, 8, 4), (8, 8, 4), (2, 8, 1)])
def test_combined_experience_replay_puts_the_newest_step_into_every_batch_and_replays_the_rest(
    batch_size, envs, fresh, n
):
    rows, frame = 64, 136
    drawn = np.asarray(sampler(n, envs, rows, batch_size, 400, use_cer=True)(jax.random.key(0), frame))
    last = frame - 1 - (n - 1) * envs  # the newest whose n-step window is complete
    newest = {number % rows for number in range(last, last - envs, -1)}
    assert all(len(set(batch[:fresh])) == fresh and set(batch[:fresh]) <= newest for batch in drawn)
    # Where not all environments fit, each has its turn as often as any other.
    counts = np.bincount(drawn[:, :fresh].ravel(), minlength=rows)[sorted(newest)]
    assert counts.sum() == 400 * fresh
    assert envs == 1 or stats.chisquare(counts).pvalue > FAIR
    plain = np.asarray(sampler(n, envs, rows, batch_size, 400)(jax.random.key(0), frame))
    assert not all(len(newest & set(batch)) >= fresh for batch in plain)
    rest = (frame - 1 - drawn[:, fresh:]) % rows  # at least half of the batch, drawn as ever
    assert 2 * rest.shape[1] >= batch_size
    if fresh == envs:
        np.testing.assert_array_equal(drawn[:, fresh:], plain[:, fresh:])
    assert stats.chisquare(np.bincount(rest.ravel(), minlength=rows)[(n - 1) * envs :]).pvalue > FAIR


def test_combined_experience_replay_leaves_something_to_replay_in_the_first_batches():
    for frame in range(4, 64, 4):
        drawn = np.asarray(sampler(1, 4, 64, 8, 200, use_cer=True)(jax.random.key(frame), frame))
        assert set(drawn.ravel()) == set(range(frame))
        assert all(set(batch[:4]) == set(range(frame - 4, frame)) for batch in drawn)


def test_a_batch_of_one_cannot_hold_the_newest_beside_another():
    env = vectorize(Env(lambda key: None, lambda key, state, action: None, Box(-1, 1, (2,)), Discrete(2)), 3)
    with pytest.raises(SpecError, match="at least 2 with use_cer") as error:
        replay.make(Replay(batch_size=1, use_cer=True), env, 3)
    assert error.value.path == "agent.memory.batch_size"
    replay.make(Replay(batch_size=1), env, 3)
    replay.make(Replay(batch_size=2, use_cer=True), env, 3)


def test_two_keys_draw_differently_and_one_key_the_same():
    draw = sampler(1, 2, 64)
    one, again, other = (np.asarray(draw(jax.random.key(k), 100)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    together = np.asarray(jax.jit(jax.vmap(draw, (0, None)))(jax.random.split(jax.random.key(0), 3), 100))
    assert len({lane.tobytes() for lane in together}) == 3
    assert len({batch.tobytes() for batch in together[0]}) == 4


# -------------------------------------------------------------------------------------------------- n-step returns


def n_step(oracle, number, n, envs, frame, cross_episodes=False):
    """`(return, discount, last frame of the window)` by a loop over the deque, float64."""
    rows = dict(oracle)
    total, factor, last = 0.0, 1.0, number
    for k in range(n):
        here = number + k * envs
        if here >= frame:
            break
        total += factor * float(rows[here]["reward"])
        factor *= GAMMA
        last = here
        if (rows[here]["terminated"] or rows[here]["truncated"]) and not cross_episodes:
            break
    return total, 0.0 if rows[last]["terminated"] else factor, last


def lost(oracle, number, envs, length):
    """Whether the environment of a truncated row was truncated again within the same block of steps."""
    later = range(number + envs, (number // envs // length + 1) * length * envs, envs)
    rows = dict(oracle)
    return any(here in rows and rows[here]["truncated"] for here in later)


def check_gather(seed, shape, rollouts, n, max_steps=1):
    """Every written row as an n-step return against the loop.

    How many windows a mutant that crosses episodes gets wrong, how many end at a truncation, how many of those have
    lost its successor.
    """
    ring, oracle, frame = play(seed, shape, rollouts, max_steps)
    envs, rows, length = shape[1], len(ring.reward), block_length(ring)
    batch = jax.tree.map(np.asarray, gatherer(n, envs)(ring, np.arange(rows, dtype=np.int32), frame))
    caught, cut, gone = 0, 0, 0
    plain = dict(oracle)
    for number, row in oracle:
        i = number % rows
        total, discount, last = n_step(oracle, number, n, envs, frame)
        assert batch.r_t[i] == pytest.approx(total, rel=1e-5, abs=1e-6)
        assert batch.discount_t[i] == pytest.approx(discount, rel=1e-6)
        assert batch.obs["frame"][i] == number
        assert batch.action[i] == row["action"]
        without = bool(plain[last]["truncated"]) and lost(oracle, last, envs, length)
        assert batch.weight[i] == (row["valid"] and not without)
        if not (without or plain[last]["terminated"]):
            found = jax.tree.map(lambda x: x[i], batch.final_obs)  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, found, plain[last]["final_obs"])
        assert last < frame
        assert (last - number) % envs == 0
        caught += abs(n_step(oracle, number, n, envs, frame, cross_episodes=True)[0] - total) > 1e-3
        cut += plain[last]["truncated"]
        gone += without
    return caught, cut, gone


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(SHAPES), st.integers(1, 9), st.sampled_from([1, 2, 3, 5]))
def test_n_step_returns_equal_a_loop(seed, shape, rollouts, n):
    assert check_gather(seed, shape, rollouts, n)[2] == 0


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 1, 40), (1, 2, 33), (4, 2, 9), (5, 3, 7), (35, 1, 1), (35, 2, 2)]),
    st.integers(1, 12),
    st.sampled_from([1, 3]),
    st.sampled_from([2, 5, None]),
)
@example(0, (35, 2, 2), 7, 3, None)  # rollouts that begin and end within blocks, and span three of them
@example(1, (4, 2, 9), 11, 1, 5)  # a block in which the head stands
def test_a_row_whose_successor_was_overwritten_weighs_nothing_and_no_other_row_is_lost(
    seed, shape, rollouts, n, max_steps
):
    check_gather(seed, shape, rollouts, n, max_steps)


def test_truncations_in_quick_succession_do_overwrite_successors():
    caught, cut, gone = check_gather(0, (4, 2, 9), 11, 1, None)
    assert caught == 0
    assert 3 < gone < cut


@pytest.mark.parametrize("max_steps", [1, 3, 7, BLOCK, 500])
@pytest.mark.parametrize("shape", [(1, 2, 50), (4, 2, 11), (7, 1, 9)])
def test_a_time_limit_alone_never_costs_a_row(shape, max_steps):
    """Episodes as long as the limit, ends of the environments shifted, at every position of the head."""
    steps, envs, held = shape
    rows, rng = steps * envs * held, np.random.default_rng(0)
    ring, frame, cut = empty(rows, envs, max_steps), 0, 0
    for _ in range(2 * held + 3):
        rollout = make_rollout(rng, steps, envs, frame, p_end=0.0)
        time = frame // envs + np.arange(steps)[:, None] + np.arange(envs)
        truncated = time % max_steps == max_steps - 1
        number = frame + np.arange(steps * envs).reshape(steps, envs)
        final_obs = observe(np.where(truncated, -number - 1, number + envs))
        ring = add(ring, rollout._replace(truncated=truncated, final_obs=final_obs, valid=truncated | True), frame)
        frame += steps * envs
        batch = gatherer(1, envs)(ring, np.arange(rows, dtype=np.int32), frame)
        age = (frame - 1 - np.arange(rows)) % rows
        number, there = frame - 1 - age, age < frame
        ended = ((number // envs + number % envs) % max_steps == max_steps - 1) & there
        np.testing.assert_array_equal(batch.weight, there)
        expected = np.where(ended, -number - 1, number + envs)
        np.testing.assert_array_equal(np.asarray(batch.final_obs["frame"])[there], expected[there])
        cut += ended.sum()
    assert cut > 0 or max_steps > 100


@pytest.mark.parametrize("n", [2, 3, 5])
def test_n_step_returns_that_cross_episodes_would_be_caught(n):
    assert check_gather(0, (5, 3, 3), 7, n)[0] > 5


def test_n_step_windows_end_at_the_write_head():
    steps, envs, held, n = 2, 2, 3, 3
    rows = steps * envs * held
    ring, frame = empty(rows, envs), 0
    for _ in range(5):  # the head stands in the middle of the ring: beyond it lie older frames
        rollout = make_rollout(np.random.default_rng(frame), steps, envs, frame, p_end=0.0)
        ring = add(ring, rollout._replace(reward=np.float32(10.0 ** (rollout.obs["frame"] // envs))), frame)
        frame += steps * envs
    newest = np.array([(frame - 1) % rows, (frame - 3) % rows, (frame - 5) % rows], np.int32)
    batch = gatherer(n, envs)(ring, newest, frame)
    step = (frame - 1) // envs
    by_hand = [10.0**step, 10.0 ** (step - 1) + GAMMA * 10.0**step]
    by_hand += [10.0 ** (step - 2) + GAMMA * 10.0 ** (step - 1) + GAMMA**2 * 10.0**step]
    np.testing.assert_allclose(batch.r_t, by_hand, rtol=1e-5)
    np.testing.assert_allclose(batch.discount_t, [GAMMA, GAMMA**2, GAMMA**3], rtol=1e-6)
    assert (batch.final_obs["frame"] == frame - 1 + envs).all()


def test_truncation_ends_a_window_but_bootstraps_and_termination_does_not():
    rollout = make_rollout(np.random.default_rng(0), 4, 1, 0, p_end=0.0)
    ends = {"none": (False, False), "terminated": (True, False), "truncated": (False, True)}
    for name, (terminated, truncated) in ends.items():
        changed = rollout._replace(reward=np.ones((4, 1), np.float32))
        changed = changed._replace(terminated=np.array([[0], [terminated], [0], [0]], bool))
        changed = changed._replace(truncated=np.array([[0], [truncated], [0], [0]], bool))
        changed = changed._replace(final_obs=observe([[1], [-2 if name != "none" else 2], [3], [4]]))
        batch = gatherer(3, 1)(add(empty(4, 1), changed, 0), np.array([0], np.int32), 4)
        whole = 1 + GAMMA + GAMMA**2
        expected = {
            "none": (whole, GAMMA**3, 3),
            "terminated": (1 + GAMMA, 0, 1),  # the row's own
            "truncated": (1 + GAMMA, GAMMA**2, -2),
        }
        total, discount, final = expected[name]
        assert float(batch.r_t[0]) == pytest.approx(total)
        assert float(batch.discount_t[0]) == pytest.approx(discount)
        assert int(batch.final_obs["frame"][0]) == final


# ------------------------------------------------------------------------------------------------- what it compiles to

SESSIONS, ROWS, ENVS = 4, 4096, 2


def batched(steps=1):
    """A flat float ring for several sessions, and a rollout for each."""
    obs, flag = jnp.zeros((3,)), jnp.zeros((), bool)
    row = Ring(obs, jnp.zeros((), jnp.uint8), jnp.zeros(()), flag, flag, flag)
    ring = jax.vmap(lambda _: init(row, ROWS, num_envs=ENVS))(jnp.arange(SESSIONS))
    fields = jax.tree.map(lambda x: jnp.ones((SESSIONS, steps, ENVS, *x.shape), x.dtype), row)
    return ring, Rollout(*fields[:5], fields.obs, fields.valid)


def compiled(function, *arguments, donate=True):
    return jax.jit(function, donate_argnums=0 if donate else ()).lower(*arguments).compile(AS_USERS_DO).as_text()


def copies_of_the_ring(text):
    """Lines of an HLO text that copy an array as large as a leaf of the ring."""
    leaves = {f"[{SESSIONS},{x.shape[1]}" for x in jax.tree.leaves(batched()[0][:-1])}
    assert len(leaves) == 2
    copies = [line for line in text.splitlines() if " copy(" in line]
    return [line for line in copies if any(leaf in line.split(" copy(")[0] for leaf in leaves)]


def scatters(text):
    return [line for line in text.splitlines() if " scatter(" in line]


def learning_loop(n, steps=1, sample_first=False):
    """What DQN does with its ring, for several sessions; the mutant reads it before writing."""
    spec = Replay(num_step_returns=n, batch_size=8)

    def session(ring, rollout, rng, frame):
        def step(carry, key):
            old, frame = carry
            ring, frame = ring_module.add(old, rollout, frame), frame + steps * ENVS
            lag = replay.lag(spec, ENVS)
            index = replay.sample_indices(spec, key, 1, rows=ROWS, num_envs=ENVS, frame=frame, lag=lag)[0]
            read = old if sample_first else ring
            batch = replay.gather(spec, read, index, GAMMA, num_envs=ENVS, frame=frame)
            return (ring, frame), batch.r_t.sum() + batch.obs.sum() + batch.final_obs.sum()

        (ring, _), sums = jax.lax.scan(step, (ring, frame), jax.random.split(rng, 10))
        return ring, sums

    keys = jax.random.split(jax.random.key(0), SESSIONS)
    return jax.vmap(session, (0, 0, 0, None)), *batched(steps), keys, jnp.int32(0)


def test_add_is_a_slice_under_vmap_neither_scatter_nor_copy():
    ring, rollout = batched()
    text = compiled(jax.vmap(ring_module.add, (0, 0, None)), ring, rollout, jnp.int32(0))
    assert not copies_of_the_ring(text)
    assert not scatters(text)
    assert "dynamic-update-slice" in text
    # the mutants: a head for each session becomes a scatter; without donation the ring is copied
    heads = compiled(jax.vmap(ring_module.add, (0, 0, 0)), ring, rollout, jnp.zeros(SESSIONS, jnp.int32))
    assert scatters(heads)
    assert copies_of_the_ring(
        compiled(jax.vmap(ring_module.add, (0, 0, None)), ring, rollout, jnp.int32(0), donate=False)
    )


@pytest.mark.parametrize(("n", "steps"), [(1, 1), (3, 1), (1, 4), (1, 64)])
def test_a_loop_that_adds_and_samples_never_copies_the_ring(n, steps):
    text = compiled(*learning_loop(n, steps))
    assert not copies_of_the_ring(text)
    assert not scatters(text)


def test_a_loop_that_samples_before_it_adds_would_copy_the_ring():
    assert copies_of_the_ring(compiled(*learning_loop(1, sample_first=True)))
