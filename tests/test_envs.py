"""Environments: the contract, auto-reset, time limits, gymnax behind it, pictures, and the probes' own answers."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from PIL import Image
from scipy import stats

from slmjax import registry
from slmjax.envs import check_env, limit, make_env, vectorize
from slmjax.envs.gif import write_gif
from slmjax.envs.gymnax import make as make_gymnax
from slmjax.spec.sections import EnvSpec
from slmjax.types import Box, Dict, Discrete, Env, MultiDiscrete, SpecError, Step, VectorEnv

DOC = Path(__file__).parents[1] / "docs" / "environments.md"
KEY = jax.random.key(0)
INF = np.inf
NAMES = registry.names("env")
SLOW = ("Freeway-MinAtar", "Seaquest-MinAtar")  # compile longest
CASES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES]
UNDRAWN = {
    *("BernoulliBandit-misc", "DiscountingChain-bsuite", "GaussianBandit-misc", "MemoryChain-bsuite"),
    *("PointRobot-misc", "Reacher-misc", "SimpleBandit-bsuite", "Swimmer-misc", "UmbrellaChain-bsuite"),
}


def spec(name, num_envs=2, **rest):
    return EnvSpec(name=name, num_envs=num_envs, max_frame=100, **rest)


def roll(env: VectorEnv, steps: int, key=KEY, policy=None):
    """`steps` steps inside one jit(scan): the observations acted on, the actions, the `Step`s and the states."""
    space = env.action_space

    def body(carry, key):
        state, obs = carry
        act, move = jax.random.split(key)
        action = jax.vmap(space.sample)(jax.random.split(act, env.num_envs)) if policy is None else policy(obs)
        after, step = env.step(move, state, action)
        return (after, step.obs), (obs, action, step, after)

    def run(key):
        start, walk = jax.random.split(key)
        return jax.lax.scan(body, env.reset(start), jax.random.split(walk, steps))[1]

    return jax.jit(run)(key)


@functools.cache
def rolled(name: str):
    env = make_env(spec(name))
    return env, roll(env, 20)


# ------------------------------------------------------------------------------------------------ every registered one


@pytest.mark.parametrize("name", CASES)
def test_a_registered_env_steps_inside_jit_and_scan_and_its_data_are_of_its_spaces(name):
    env, (obs, action, step, _) = rolled(name)
    space = env.observation_space
    for seen in (obs, step.obs, step.final_obs):
        assert seen.shape == (20, 2, *space.shape)
        assert seen.dtype == space.dtype
    seen = np.asarray(step.final_obs)
    if isinstance(space, Box):
        assert np.isfinite(seen).all()
        assert (seen >= space.low - 1e-5).all()
        assert (seen <= space.high + 1e-5).all()
        assert (space.stored is not None) == name.endswith("-MinAtar")
        if space.stored is not None:  # what the adapter promised
            for exact in (obs, step.obs, step.final_obs):
                np.testing.assert_array_equal(np.asarray(exact).astype(space.stored).astype(np.float32), exact)
    else:
        assert (seen >= 0).all()
        assert (seen < space.n).all()
    assert action.shape == (20, 2, *env.action_space.shape)
    assert step.reward.dtype == jnp.float32
    assert np.isfinite(step.reward).all()
    assert step.terminated.dtype == step.truncated.dtype == step.valid.dtype == bool
    assert not (step.terminated & step.truncated).any()
    assert step.valid.all()
    assert isinstance(env.max_steps, int)
    np.testing.assert_array_equal(obs[1:], step.obs[:-1])


@pytest.mark.parametrize("name", CASES)
def test_a_gif_is_written_for_everything_that_can_be_drawn(name, tmp_path):
    env, (*_, states) = rolled(name)
    assert (env.render is None) == (name in UNDRAWN)
    if env.render is None:
        return
    states = [jax.tree.map(lambda leaf, t=t: leaf[t], states) for t in range(0, 20, 2)]
    frames = [env.render(state, 1) for state in states]
    write_gif(frames, tmp_path / "run.gif", fps=10)
    with Image.open(tmp_path / "run.gif") as image:
        assert image.size == frames[0].shape[1::-1]
        assert 1 <= image.n_frames <= len(frames)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 1
    assert all(frame.std() > 1 for frame in frames)
    assert any((frame != frames[0]).any() for frame in frames[1:])


def test_mnist_is_the_only_gymnax_environment_that_is_left_out():
    import gymnax

    assert set(gymnax.registered_envs) - set(NAMES) == {"MNISTBandit-bsuite"}


# --------------------------------------------------------------------------------------------- ends of episodes, resets


def test_cartpole_under_a_random_policy_terminates_and_is_not_truncated():
    _, _, step, _ = roll(make_env(spec("CartPole-v1", 8)), 200)
    assert step.terminated.sum() > 8
    assert not step.truncated.any()


def test_pendulum_is_truncated_at_200_never_terminated_and_the_true_successor_survives_the_reset():
    env = make_env(spec("Pendulum-v1"))
    assert env.max_steps == 200
    _, _, step, _ = roll(env, 401)
    assert not step.terminated.any()
    assert np.flatnonzero(step.truncated[:, 0]).tolist() == [199, 399]
    assert not np.allclose(step.final_obs[199], step.obs[199])
    # not bit-equal: XLA may round the two outputs differently
    np.testing.assert_allclose(step.final_obs[:199], step.obs[:199], rtol=1e-5, atol=1e-6)


def test_termination_wins_where_an_environment_sets_both():
    raw, env = make_gymnax("DeepSea-bsuite"), make_env(spec("DeepSea-bsuite"))
    state, _ = raw.reset(KEY)
    advance = jax.jit(raw.step)
    for _ in range(8):
        state, *_, terminated, truncated = advance(KEY, state, jnp.int32(0))
    assert terminated
    assert truncated  # or this test shows nothing
    _, _, step, _ = roll(env, 16)
    assert np.flatnonzero(step.terminated[:, 0]).tolist() == [7, 15]
    assert not step.truncated.any()


def test_max_t_truncates_and_termination_on_the_same_step_still_wins():
    env = make_env(spec("Pendulum-v1", max_t=7))
    assert env.max_steps == 7
    _, _, step, _ = roll(env, 15)
    assert np.flatnonzero(step.truncated[:, 1]).tolist() == [6, 13]
    two_steps = probes.delayed_reward()._replace(max_steps=None)  # so that the counter has to run
    _, _, step, _ = roll(vectorize(two_steps, 3, max_t=2), 4)
    assert step.terminated[:, 0].tolist() == [False, True, False, True]
    assert not step.truncated.any()


def test_a_limit_beyond_the_environments_own_counts_nothing():
    env = make_gymnax("Pendulum-v1")
    assert limit(env, 200) is env
    assert limit(env, 199).max_steps == 199
    with pytest.raises(ValueError, match="at least 1"):
        limit(env, 0)


def test_final_obs_is_what_the_environment_returned_and_obs_is_a_new_episode_where_one_ended():
    raw, env = make_gymnax("CartPole-v1"), make_env(spec("CartPole-v1", 4))
    state, _ = env.reset(KEY)
    step, advance = jax.jit(env.step), jax.jit(jax.vmap(raw.step, (None, 0, 0)))
    ended = 0
    for t in range(60):
        action = jnp.ones(4, jnp.int32)
        _, expected, reward, terminated, _ = advance(KEY, state, action)
        state, out = step(jax.random.key(t), state, action)
        np.testing.assert_allclose(out.final_obs, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(out.terminated, terminated)
        np.testing.assert_array_equal(out.reward, reward)
        np.testing.assert_allclose(out.obs[~terminated], out.final_obs[~terminated], rtol=1e-5, atol=1e-6)
        assert (np.abs(out.obs[terminated]) <= 0.05).all()
        assert (np.abs(out.final_obs[terminated, 2]) > 0.2).all()
        ended += int(terminated.sum())
    assert ended > 8


def test_resets_and_environments_draw_independently_and_a_key_decides_everything():
    env = make_env(spec("CartPole-v1", 16))
    keys = jnp.stack([KEY, jax.random.key(1), KEY])
    obs, _, step, _ = out = jax.vmap(lambda key: roll(env, 60, key))(keys)
    first, fresh = np.asarray(obs[0, 0]), np.asarray(step.obs[0])[np.asarray(step.terminated[0])]
    assert len(fresh) > 16
    assert len(np.unique(np.concatenate([first, fresh]), axis=0)) == 16 + len(fresh)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[2]), out)
    assert (np.asarray(obs[1, 0]) != first).all()


def test_each_environment_steps_with_draws_of_its_own():
    draw = lambda key: jax.random.uniform(key, (1,))  # noqa: E731
    step = lambda key, state, action: (state, draw(key), 0, False, False)  # noqa: E731
    env = Env(lambda key: ((), draw(key)), step, Box(0, 1, (1,)), Discrete(2))
    obs, _, out, _ = roll(vectorize(env, 3), 10)
    assert len(np.unique(np.concatenate([obs[:1], out.obs]))) == 33


def test_keys_of_resets_meet_no_key_of_a_step():
    n = 5
    beside = jax.random.key_data(jax.random.fold_in(KEY, n))
    np.testing.assert_array_equal(beside, jax.random.key_data(jax.random.split(KEY, n + 1)[n]))
    np.testing.assert_array_equal(
        jax.random.key_data(jax.random.split(KEY, n)), jax.random.key_data(jax.random.split(KEY, n + 1)[:n])
    )


def test_a_session_in_a_population_lives_what_it_lives_alone():
    env = make_env(spec("CartPole-v1", 3))
    keys = jax.random.split(KEY, 4)
    together = jax.vmap(lambda key: roll(env, 30, key))(keys)
    alone = roll(env, 30, keys[2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-5, atol=1e-6), together, alone)


def test_raw_and_typed_keys_both_work_and_a_key_may_live_in_the_state():
    def reset(key):
        return key, jnp.zeros(1)

    def step(key, state, action):
        state, draw = jax.random.split(state)
        return state, jax.random.uniform(draw, (1,)), 0, False, jax.random.bernoulli(key)

    env = Env(reset, step, Box(0, 1, (1,)), Discrete(2))
    check_env(env)
    _, _, out, _ = roll(vectorize(env, 3), 10)
    assert len(np.unique(out.final_obs)) == 30
    state, _ = make_env(spec("CartPole-v1")).reset(jax.random.PRNGKey(0))
    assert state.x.shape == (2,)


# --------------------------------------------------------------------------------------------------- dtypes and spaces


def test_observations_arrive_in_the_dtype_that_agents_expect():
    parts = {
        "image": (Box(0, 255, (2, 2), jnp.uint8), jnp.zeros((2, 2), jnp.uint8), jnp.uint8),
        "flags": (Box(0, 1, (3,), jnp.bool_), jnp.zeros(3, bool), jnp.float32),
        "cells": (Box(0, 9, (2,), jnp.int32), jnp.zeros(2, jnp.int32), jnp.float32),
        "half": (Box(0, 9, (), jnp.float16), jnp.zeros((), jnp.float16), jnp.float32),
        "place": (Discrete(4), jnp.zeros((), jnp.uint8), jnp.int32),
        "digits": (MultiDiscrete((3, 4)), jnp.zeros(2, jnp.int8), jnp.int32),
    }
    space = Dict({name: part[0] for name, part in parts.items()})
    obs = {name: part[1] for name, part in parts.items()}
    env = Env(lambda key: (0, obs), lambda key, s, a: (s, obs, True, s > 0, s > 0), space, Discrete(2))
    check_env(env)
    batch = vectorize(env, 2)
    state, first = batch.reset(KEY)
    _, step = batch.step(KEY, state, jnp.zeros(2, jnp.int32))
    assert step.reward.dtype == jnp.float32
    for name, (declared, _, dtype) in parts.items():
        assert first[name].dtype == step.obs[name].dtype == batch.observation_space.spaces[name].dtype == dtype
        assert first[name].shape == (2, *declared.shape)


def test_gymnax_arguments_reach_the_constructor_and_the_parameters_in_their_types():
    assert make_gymnax("DeepSea-bsuite", size=5).observation_space.shape == (5, 5)
    assert make_gymnax("DeepSea-bsuite", size=5).max_steps == 5
    assert make_gymnax("DeepSea-bsuite", action_mapping_key=3).max_steps == 8
    assert make_gymnax("FrozenLake-misc", map_name="8x8").observation_space == Discrete(64)
    assert make_gymnax("BernoulliBandit-misc", max_steps_in_episode=7).max_steps == 7
    assert make_gymnax("Pendulum-v1", max_torque=1).action_space.high.tolist() == [1.0]
    check_env(make_gymnax("Acrobot-v1", available_torque=[-2, 0, 2]))


def test_a_heavier_pole_changes_the_products_that_gymnax_keeps_of_it():
    light, heavy = make_gymnax("CartPole-v1"), make_gymnax("CartPole-v1", masspole=1)
    told = make_gymnax("CartPole-v1", masspole=1, total_mass=2.0, polemass_length=0.5)
    state, _ = light.reset(KEY)
    obs = [env.step(KEY, state, jnp.int32(1))[1] for env in (light, heavy, told)]
    np.testing.assert_array_equal(obs[1], obs[2])
    assert not np.allclose(obs[0], obs[1])


# ------------------------------------------------------------------------------------------------ parity with gymnasium

RANGES = {
    "CartPole-v1": {"x": (-2.39, 2.39), "x_dot": (-3, 3), "theta": (-0.2, 0.2), "theta_dot": (-3, 3)},
    "Acrobot-v1": {"joint_angle1": (-3, 3), "joint_angle2": (-3, 3), "velocity_1": (-4, 4), "velocity_2": (-9, 9)},
    "MountainCar-v0": {"position": (-1.2, 0.5), "velocity": (-0.07, 0.07)},
    "Pendulum-v1": {"theta": (-6, 6), "theta_dot": (-8, 8)},
}


@pytest.mark.parametrize("name", sorted(RANGES))
def test_dynamics_rewards_and_ends_equal_gymnasiums_from_any_state(name):
    n, rng = 200, np.random.default_rng(0)
    env, reference = make_gymnax(name), gymnasium.make(name).unwrapped
    values = {field: rng.uniform(*bounds, n).astype(np.float32) for field, bounds in RANGES[name].items()}
    state = jax.vmap(env.reset)(jax.random.split(KEY, n))[0].replace(**values)
    action = jax.vmap(env.action_space.sample)(jax.random.split(KEY, n))
    _, obs, reward, terminated, _ = jax.jit(jax.vmap(env.step))(jax.random.split(KEY, n), state, action)
    for i in range(n):
        reference.reset(seed=0)
        reference.state = np.array([column[i] for column in values.values()], np.float64)
        expected = reference.step(np.asarray(action[i]))
        np.testing.assert_allclose(obs[i], expected[0], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(reward[i], expected[1], rtol=1e-4, atol=1e-4)
        assert bool(terminated[i]) == expected[2]
    assert terminated.any() == (name != "Pendulum-v1")


# ------------------------------------------------------------------------------------------------ a person's own


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """The example of docs/environments.md, saved as walk.py where Python finds it."""
    code = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)[0]
    (tmp_path / "walk.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "walk.py", code
    sys.modules.pop("walk", None)


def test_the_documented_example_works_as_it_stands(walk):
    env = make_env(spec("walk:make", 4, max_t=50, kwargs={"length": 7}))
    assert env.max_steps == 50
    _, _, step, _ = roll(env, 60, policy=lambda obs: jnp.ones(4, jnp.int32))
    np.testing.assert_allclose(np.asarray(step.final_obs)[np.asarray(step.terminated)], 6 / 7, rtol=1e-6)
    np.testing.assert_array_equal(step.reward, step.terminated)
    assert 4 * 60 / 6 <= step.terminated.sum() <= 4 * 60
    _, _, step, _ = roll(env, 100, policy=lambda obs: jnp.zeros(4, jnp.int32))
    assert np.flatnonzero(step.truncated[:, 0]).tolist() == [49, 99]


def test_the_documented_error_is_the_one_that_comes(walk):
    path, code = walk
    path.write_text(
        code.replace("return position, jnp.array([position / length]), r", "return position, jnp.ones(2), r")
    )
    with pytest.raises(SpecError) as error:
        make_env(spec("walk:make"))
    assert f"`{error.value}`" in DOC.read_text()


def test_the_page_names_every_registered_environment():
    assert [name for name in NAMES if f"`{name}`" not in DOC.read_text()] == []


GOOD = Env(
    reset=lambda key: (0, jnp.zeros(2)),
    step=lambda key, state, action: (state + 1, jnp.zeros(2), 1.0, state > 3, False),
    observation_space=Box(-1, 1, (2,)),
    action_space=Discrete(2),
)


def steps(**change):
    """GOOD with one entry of what `step` returns replaced."""
    order = ("state", "obs", "reward", "terminated", "truncated")

    def step(key, state, action):
        out = dict(zip(order, GOOD.step(key, state, action), strict=True))
        return tuple((out | change).values())

    return GOOD._replace(step=step)


def branch(key, state, action):
    return (state, jnp.zeros(2), 1.0, True, False) if action > 0 else None


BROKEN = {
    "no env": ((1, 2), "it must be an slmjax.types.Env, got tuple"),
    "no space": (GOOD._replace(action_space=2), "action_space must be one of Discrete, Box"),
    "max_steps": (GOOD._replace(max_steps=0), "max_steps must be None or an integer of at least 1, got 0"),
    "reset arity": (GOOD._replace(reset=lambda key: 0), "what reset returns must be (state, obs), got "),
    "step arity": (
        GOOD._replace(step=lambda k, s, a: (s, jnp.zeros(2), 1.0, False)),
        "what step returns must be (state, obs, reward, terminated, truncated), got 4 values",
    ),
    "untraceable": (GOOD._replace(step=branch), "step cannot be traced by jax (" + __file__),
    "arguments": (GOOD._replace(step=lambda s: s), "step cannot be traced by jax"),
    "reset obs shape": (GOOD._replace(reset=lambda key: (0, jnp.zeros(3))), "observation that reset returns must be"),
    "obs shape": (steps(obs=jnp.zeros(3)), "step returns must be float32[2] (observation_space), got float32[3]"),
    "obs dtype": (steps(obs=jnp.zeros(2, jnp.uint8)), "must be float32[2] (observation_space), got uint8[2]"),
    "obs kind": (steps(obs={"a": jnp.zeros(2)}), "must be float32[2] (observation_space), got a dict"),
    "float for discrete": (GOOD._replace(observation_space=Discrete(3)), "must be int32[] (observation_space), got"),
    "dict names": (
        GOOD._replace(observation_space=Dict({"x": Discrete(2)})),
        "must be a dict with ['x'] (observation_space), got float32[2]",
    ),
    "stored range": (
        GOOD._replace(observation_space=Box(0, 300, (2,), stored=np.uint8)),
        "stored of observation_space must be a dtype that holds 0 to 300, got uint8 (0 to 255)",
    ),
    "stored kind": (
        GOOD._replace(observation_space=Dict({"x": Box(0, 1, (2,), stored=np.float16)})),
        "stored of observation_space['x'] must be bool or an integer dtype, got float16",
    ),
    "state tree": (steps(state=(0, 0)), "the state that step returns must be the tree of reset's"),
    "state dtype": (
        steps(state=0.5),
        "the state that step returns must be int32[], as reset returns it, got float32[]",
    ),
    "state shape": (steps(state=jnp.zeros(3, jnp.int32)), "must be int32[], as reset returns it, got int32[3]"),
    "reward shape": (steps(reward=jnp.zeros(1)), "reward must be a real scalar, got float32[1]"),
    "reward dtype": (steps(reward=1j), "reward must be a real scalar, got complex64[]"),
    "terminated": (steps(terminated=0), "terminated must be a bool scalar, got int32[]"),
    "truncated": (steps(truncated=jnp.zeros(2, bool)), "truncated must be a bool scalar, got bool[2]"),
}


def test_the_environment_that_the_broken_ones_are_made_from_is_sound():
    check_env(GOOD)


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_a_broken_contract_is_one_sentence_with_what_was_expected_and_got(case):
    env, message = BROKEN[case]
    with pytest.raises(SpecError) as error:
        check_env(env, "mine:make")
    assert str(error.value).startswith("mine:make: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.path == "env.name"


def needs_length(length):
    return GOOD


HERE = __name__


def raises_type_error(length=1):
    return length + "1"


def raises_value_error():
    raise ValueError("a long\n  story")


def raises_its_own():
    raise type("Trouble", (Exception,), {})("of its own")


def raises_key_error():
    return {}["wall"]


def raises_spec_error():
    raise SpecError("too long", "env.kwargs.length")


WRONG = {
    "raises TypeError": (f"{HERE}:raises_type_error", None, "env.name", "raised TypeError: unsupported operand"),
    "raises ValueError": (f"{HERE}:raises_value_error", None, "env.name", "raised ValueError: a long story"),
    "raises anything": (f"{HERE}:raises_its_own", None, "env.name", "raises_its_own could not be made; it raised Trou"),
    "raises KeyError": (f"{HERE}:raises_key_error", None, "env.name", "raised KeyError: 'wall'"),
    "raises SpecError": (f"{HERE}:raises_spec_error", None, "env.kwargs.length", "too long"),
    "unknown name": ("CartPole-v2", None, "env.name", "Did you mean 'CartPole-v1'?"),
    "unknown module": ("no_such_module:make", None, "env.name", "cannot import 'no_such_module'"),
    "unknown attribute": (f"{HERE}:nothing", None, "env.name", "has no attribute 'nothing'"),
    "no function": (f"{HERE}:NAMES", None, "env.name", "got list"),
    "returns no env": (f"{HERE}:spec", {"name": "x"}, "env.name", "got EnvSpec"),
    "custom kwarg": (f"{HERE}:needs_length", {"lenght": 3}, "env.kwargs.lenght", "Did you mean 'length'?"),
    "missing kwarg": (f"{HERE}:needs_length", None, "env.kwargs", "needs length"),
    "kwarg for an env": (f"{HERE}:GOOD", {"length": 3}, "env.kwargs.length", "It takes none."),
    "gymnax kwarg": ("CartPole-v1", {"gravitty": 1}, "env.kwargs.gravitty", "Did you mean 'gravity'? Known: force_mag"),
    "whole number": ("CartPole-v1", {"max_steps_in_episode": 9.5}, "env.kwargs.max_steps_in_episode", "whole number"),
    "number": ("CartPole-v1", {"gravity": "low"}, "env.kwargs.gravity", "must be a number, got 'low'"),
    "bool": ("DeepSea-bsuite", {"deterministic": 1}, "env.kwargs.deterministic", "must be true or false, got 1"),
    "array": ("Acrobot-v1", {"available_torque": [1]}, "env.kwargs.available_torque", "shape (3,)"),
    "constructor": ("FrozenLake-misc", {"map_name": "9x9"}, "env.kwargs", "map_name must be"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_spec_is_refused_with_its_key_and_the_nearest_right_one(case):
    name, kwargs, path, message = WRONG[case]
    with pytest.raises(SpecError) as error:
        make_env(spec(name, kwargs=kwargs))
    assert error.value.path == path
    assert message in str(error.value)


BOXES = {
    "bounded": Box(-2.0, 5.0),
    "bounded below": Box(0.0, INF),
    "bounded below, far": Box(-3.5, INF),
    "bounded above": Box(-INF, 2.0),
    "unbounded": Box(-INF, INF),
    "pixels": Box(0, 255, dtype=jnp.uint8),
    "few integers": Box(-2, 3, dtype=jnp.int32),
    "integers from": Box(1, INF, dtype=jnp.int32),
}


@pytest.mark.parametrize("name", BOXES)
def test_a_draw_from_a_box_is_inside_of_it_and_distributed_as_gymnasiums(name):
    box = BOXES[name]
    low, high, kind = float(box.low), float(box.high), np.dtype(box.dtype)
    wide = Box(low, high, (5000,), box.dtype)
    ours = np.asarray(wide.sample(KEY))
    # gymnasium wants integer bounds for integers: an infinite one is its largest integer, and counts as infinite there
    bounds = (low, high) if kind.kind == "f" else (np.full(5000, low), np.full(5000, high))
    theirs = gymnasium.spaces.Box(*bounds, (5000,), kind, seed=0).sample()
    assert ours.dtype == kind
    assert ours.min() >= low
    assert ours.max() <= high
    if kind.kind == "f":
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
        assert stats.ks_2samp(ours * 1.3, theirs).pvalue < 1e-9  # and the test sees a scale that is a little wrong
    else:
        few = [np.bincount(np.minimum(x.astype(int) - int(low), 15), minlength=16) for x in (ours, theirs)]
        few = np.stack(few)[:, np.sum(few, 0) > 0]
        assert stats.chi2_contingency(few).pvalue > 1e-3
    if name in ("pixels", "few integers"):
        assert (ours.min(), ours.max()) == (low, high)


def test_every_entry_of_a_box_has_bounds_of_its_own():
    box = Box([0.0, -INF, -INF, -2.0], [INF, 3.0, INF, 5.0], (4,))
    drawn = np.asarray(jax.vmap(box.sample)(jax.random.split(KEY, 4000)))
    laws = [stats.expon(), stats.expon(), stats.norm(), stats.uniform(-2, 7)]
    for column, law in zip([drawn[:, 0], 3.0 - drawn[:, 1], drawn[:, 2], drawn[:, 3]], laws, strict=True):
        assert stats.kstest(column, law.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.08


def test_an_env_may_stand_where_a_function_that_returns_one_may():
    assert make_env(spec(f"{HERE}:GOOD")).num_envs == 2
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        vectorize(GOOD, 0)


def test_a_short_name_that_a_user_registered_is_called_like_the_function_behind_it(monkeypatch):
    monkeypatch.setitem(registry.TABLES["env"], "Mine", f"{HERE}:needs_length")
    assert make_env(spec("Mine", kwargs={"length": 1})).observation_space.shape == (2,)


def test_the_room_is_imported_without_a_suite_or_a_plotting_library():
    heavy = ("gymnax", "gymnasium", "matplotlib", "pandas", "PIL")
    code = f"import sys, slmjax.envs; print([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------------------ GIF files


def test_a_gif_keeps_its_colours_and_leaves_nothing_beside_it(tmp_path):
    frames = [np.full((4, 6, 3), (255, 0, 10 * i), np.uint8) for i in range(5)]
    write_gif(frames, tmp_path / "a.gif", fps=25)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (5, 40, 0)
        image.seek(4)
        np.testing.assert_allclose(np.asarray(image.convert("RGB"))[0, 0], (255, 0, 40), atol=8)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize(
    "frames", [[], [np.zeros((2, 2, 3))], [np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)]]
)
def test_frames_that_are_no_film_are_refused_and_nothing_is_written(frames, tmp_path):
    with pytest.raises(ValueError, match="frame"):
        write_gif(frames, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    frames = [np.zeros((2, 2, 3), np.uint8)]
    write_gif(frames, tmp_path / "a.gif")
    before = (tmp_path / "a.gif").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_gif([frames[0] + 9], tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


# --------------------------------------------------------------------------------------------------------------- probes


def values(obs, step: Step, gamma, successor, ends):
    """Tabular values on the data: the fixed point of V(o) = mean(r + gamma (1 - end) V(successor))."""
    seen, index = np.unique(np.asarray(obs), return_inverse=True)
    following = np.searchsorted(seen, np.clip(np.asarray(successor), seen[0], seen[-1]).ravel())
    index, reward, end = index.ravel(), np.asarray(step.reward).ravel(), np.asarray(ends).ravel()
    value = np.zeros(len(seen))
    for _ in range(3000):
        target = reward + gamma * (1 - end) * value[following]
        value = np.bincount(index, target) / np.bincount(index)
    return dict(zip(seen.tolist(), value.tolist(), strict=True))


def best(continuous):
    if continuous:
        return lambda obs: jnp.where(obs > 0, *probes.CENTRES)
    return lambda obs: (obs[:, 0] > 0).astype(jnp.int32)


def constant(value, dtype):
    return lambda obs: jnp.full((obs.shape[0], *(() if dtype == jnp.int32 else (1,))), value, dtype)


ANSWERS = [
    (probes.constant_reward(), None, 0.9, {0: 1}),
    (probes.observed_reward(), None, 0.9, {-1: -1, 1: 1}),
    (probes.delayed_reward(), None, 0.9, {0: 0.9, 1: 1}),
    (probes.best_action(), constant(1, jnp.int32), 0.9, {0: 1}),
    (probes.best_action(), constant(0, jnp.int32), 0.9, {0: -1}),
    (probes.best_action(continuous=True), constant(probes.TARGET, jnp.float32), 0.9, {0: 0}),
    (probes.best_action(continuous=True), constant(1.3, jnp.float32), 0.9, {0: -1}),
    (probes.matching_action(), best(False), 0.9, {-1: 1, 1: 1}),
    (probes.matching_action(continuous=True), best(True), 0.9, {-1: 0, 1: 0}),
    (probes.time_limit(), None, 0.98, {0: 50}),
    (probes.limit_at_the_end(), None, 0.9, {0: 1}),
    (probes.far_reset(), None, 0.9, {-1: -11, 1: 10}),
    (probes.nan_reward(probability=0.0), best(False), 0.9, {-1: 10, 1: 10}),
]


@pytest.mark.parametrize("case", range(len(ANSWERS)))
def test_a_probe_has_the_answer_that_it_claims(case):
    env, policy, gamma, answer = ANSWERS[case]
    check_env(env)
    obs, _, step, _ = roll(vectorize(env, 8), 48, policy=policy)
    found = values(obs, step, gamma, step.final_obs, step.terminated)
    assert found.keys() == answer.keys()
    np.testing.assert_allclose([found[o] for o in answer], list(answer.values()), atol=1e-4)


def test_the_probes_of_episode_ends_catch_the_learners_that_they_are_for():
    """Mutants: death for a limit, the reset's observation for the true one, a bootstrap on top of a termination."""
    obs, _, step, _ = roll(vectorize(probes.time_limit(), 8), 48)
    found = values(obs, step, 0.98, step.final_obs, step.terminated | step.truncated)
    assert found[0] == pytest.approx(1 / (1 - 0.98 * 7 / 8))
    obs, _, step, _ = roll(vectorize(probes.far_reset(), 8), 48)
    assert values(obs, step, 0.9, step.obs, step.terminated)[1] == pytest.approx(-38.46, abs=0.01)
    obs, _, step, _ = roll(vectorize(probes.limit_at_the_end(), 8), 48)
    assert step.terminated.all()
    assert not step.truncated.any()
    assert values(obs, step, 0.9, step.final_obs, jnp.zeros_like(step.terminated))[0] == pytest.approx(10)


def test_nan_hits_the_sessions_that_drew_it_from_the_step_that_it_says_and_no_other():
    env = vectorize(probes.nan_reward(probability=0.1, at=5), 2)
    keys = jax.random.split(KEY, 16)
    _, _, step, states = jax.vmap(lambda key: roll(env, 12, key))(keys)
    lost = np.isnan(step.reward)
    poisoned = np.asarray(states.poisoned)
    np.testing.assert_array_equal(lost[:, 4:], poisoned[:, 4:])
    assert not lost[:, :4].any()
    assert 0 < lost.any((1, 2)).sum() < 16
