"""The grid: every observation space x every action space x every registered algorithm is an agent or one error.

Pairs are traced, so all shapes and dtypes meet; compiling every one of them takes long, so by default each algorithm
runs once, on a Dict that holds every observation space (`tests/test_determinism.py`), and `pytest -m slow` traces and
runs all that are left.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny
from agents import slow_ones
from tiny import ACTIONS, ALGORITHMS, EVERYTHING, OBSERVATIONS, actions_of, env_of

from slmjax import registry, schedules
from slmjax.algos.dqn import DQNKeys
from slmjax.lab.trial import make_agent
from slmjax.learners import q_learning
from slmjax.types import Algorithm, Box, Discrete, Rollout, SpecError, zeros

PAGES = Path(__file__).resolve().parents[1] / "docs" / "algorithms"
IMAGES = ("Box uint8 image", "nested Dict")  # observations that a ConvNet takes
ONE, SAME = "Box float64", "Box float32"  # agents get the former as the latter, so one trace is that of both


def shapes(tree, *leading):
    """Every array as its shape and dtype, behind further axes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype), tree)


def trace(spec, env) -> None:
    """One agent's functions by their shapes: what acts fits the environment, what learns changes no shape."""
    agent, envs = make_agent(spec, env), env.num_envs
    steps, hp = agent.horizon, jax.tree.map(jnp.float32, spec.hp)
    key = jax.eval_shape(lambda: jax.random.key(0))
    obs, flag = shapes(zeros(env.observation_space, envs)), jax.ShapeDtypeStruct((steps, envs), bool)

    def at(function, *args):  # schedules read
        return jax.eval_shape(lambda hp, *args: function(*args, schedules.at(hp, jnp.int32(0))), hp, *args)

    state = at(agent.init, key)
    carry = jax.eval_shape(lambda: agent.carry(envs))
    for greedy in (False, True):
        act = lambda policy, obs, carry, key, hp, greedy=greedy: agent.act(policy, obs, carry, key, hp, greedy)  # noqa: E731
        action, after, extras = at(act, state.policy, obs, carry, key)
        assert shapes(action) == shapes(zeros(env.action_space, envs))
        assert shapes(after) == shapes(carry)
    many = lambda tree: shapes(tree, steps)  # noqa: E731
    reward = jax.ShapeDtypeStruct((steps, envs), jnp.float32)
    rollout = Rollout(many(obs), many(action), reward, flag, flag, many(obs), flag, many(extras), carry)
    learned, metrics = at(agent.update, state, rollout, key)
    for moved in (learned, at(agent.observe, state, rollout, key)):
        assert shapes(moved) == shapes(state)
    assert {(x.shape, x.dtype) for x in metrics.values()} <= {((), jnp.dtype(jnp.float32))}


def refusal(spec, env) -> str:
    """What is said of a pair that does not fit; fails where nothing is, or where another error is raised."""
    with pytest.raises(SpecError) as error:
        make_agent(spec, env)
    return str(error.value)


PAIRS = [(a, action) for a in ALGORITHMS for action in ACTIONS]
ABLE = [(a, action) for a, action in PAIRS if action in actions_of(a)]
SEEN = [name for name in OBSERVATIONS if name != ONE]
EVERY = [(*pair, observation) for pair in ABLE for observation in SEEN]


def rare(algorithm: str, action: str, observation: str) -> bool:
    """Beyond the first actions of an algorithm every other space of observations is left to the slow tests."""
    able = actions_of(algorithm)
    return action != able[0] and (able.index(action) + SEEN.index(observation)) % 2 == 0


USUAL = slow_ones(EVERY, {case for case in EVERY if rare(*case)})


class TestPairs:
    @pytest.mark.parametrize(("algorithm", "action", "observation"), USUAL)
    def test_what_fits_is_an_agent(self, algorithm, action, observation):
        trace(tiny.spec_of(algorithm, observation, action), env_of(observation, action))

    @pytest.mark.parametrize("action", ACTIONS)
    def test_observations_of_float64_reach_agents_as_float32(self, action):
        one, same = env_of(ONE, action), env_of(SAME, action)
        assert str(one.observation_space) == str(same.observation_space)
        key = jax.eval_shape(lambda: jax.random.key(0))
        assert jax.eval_shape(one.reset, key) == jax.eval_shape(same.reset, key)


@pytest.mark.parametrize(("algorithm", "action"), [pair for pair in PAIRS if pair not in ABLE])
def test_what_does_not_fit_is_one_error_that_says_who_could(algorithm, action):
    able = [name for name in ALGORITHMS if action in actions_of(name)]
    for observation in OBSERVATIONS:
        said = refusal(tiny.spec_of(algorithm, observation, action), env_of(observation, action))
        assert said == (
            f"{algorithm} cannot act in tiny:spaces, whose actions are {ACTIONS[action]}. These can: {', '.join(able)}."
        )


@pytest.mark.parametrize(("algorithm", "action"), ABLE)
def test_an_image_may_be_convolved(algorithm, action):
    image = IMAGES[actions_of(algorithm).index(action) % len(IMAGES)]
    trace(tiny.spec_of(algorithm, image, action, tiny.CONV), env_of(image, action))


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "Random"])
def test_what_is_no_image_cannot_be_convolved(algorithm):
    action = actions_of(algorithm)[0]
    for observation in OBSERVATIONS:
        if observation not in IMAGES:
            env = env_of(observation, action)
            said = refusal(tiny.spec_of(algorithm, observation, action, tiny.CONV), env)
            assert (
                said == f"expected an observation with an image [height, width, channels], got {env.observation_space}."
            )


class TestMutants:
    """What these tests would say of an algorithm that is registered with more than it can do."""

    def register(self, monkeypatch, make):
        monkeypatch.setitem(registry.TABLES["algorithm"], "Boastful", "test_grid:BOASTFUL")
        monkeypatch.setitem(globals(), "BOASTFUL", Algorithm(DQNKeys, make, (Discrete, Box), ("Replay",)))

    def test_an_action_space_that_makes_it_crash(self, monkeypatch):
        self.register(monkeypatch, q_learning.make)
        spec, env = tiny.spec_of("Boastful", "Discrete", "Box symmetric"), env_of("Discrete", "Box symmetric")
        with pytest.raises(AttributeError):
            trace(spec, env)
        with pytest.raises(AttributeError):
            refusal(spec, env)

    def test_actions_that_the_environment_does_not_take(self, monkeypatch):
        self.register(monkeypatch, lambda hp, env: q_learning.make(hp, env._replace(action_space=Discrete(3))))
        with pytest.raises(AssertionError):
            trace(tiny.spec_of("Boastful", "Discrete", "Box symmetric"), env_of("Discrete", "Box symmetric"))


# ----------------------------------------------------------------------------------------------------- really running


def check_finite(spec) -> None:
    """Two updates of one session, after which every number is finite."""
    lab = tiny.lab(spec, 1)
    tiny.assert_finite(*tiny.run(lab, tiny.keys(1), lab.first + lab.frames))


def test_every_action_space_is_among_them():
    assert {tiny.diagonal(algorithm) for algorithm in ALGORITHMS} == set(ACTIONS)
    assert set(tiny.SPACES[EVERYTHING].spaces) == set(OBSERVATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize(("algorithm", "action"), ABLE)
def test_two_updates_are_finite(algorithm, action, observation):
    check_finite(tiny.spec_of(algorithm, observation, action))


@pytest.mark.slow
@pytest.mark.parametrize("observation", IMAGES)
@pytest.mark.parametrize(("algorithm", "action"), ABLE)
def test_two_updates_of_convolved_images_are_finite(algorithm, action, observation):
    check_finite(tiny.spec_of(algorithm, observation, action, tiny.CONV))


NETS = registry.names("net")


def networks_of(page: str) -> dict[str, str]:
    """What a page of an algorithm says in the column of networks, by the algorithms of that row."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|.* \| ([^|]+) \|$", page, re.MULTILINE)
    return {name: said for names, said in rows for name in re.findall(r"`(\w+)`", names) if name in ALGORITHMS}


def fits(algorithm: str, action: str, net: dict) -> bool:
    """Whether there is an agent with such a network."""
    seen = "Box uint8 image" if "Conv" in net["type"] else "Box float32"
    small = {"conv_hid_layers": [[2, 3]]} if "Conv" in net["type"] else {}
    kind = registry.resolve("memory", registry.resolve("algorithm", algorithm).memories[0]).kind
    room = None if kind == "rollout" else {"max_size": 256}  # for the windows of a recurrent network
    try:
        spec = tiny.spec_of(algorithm, seen, action, net | small, room)
        agent = make_agent(spec, env_of(seen, action))
    except SpecError:
        return False
    hp = schedules.at(spec.hp, jnp.int32(0))
    return bool(jax.eval_shape(agent.init, jax.random.key(0), hp).policy)


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "Random"])
def test_its_page_says_which_networks_an_algorithm_takes(algorithm):
    (said,) = {
        networks_of(path.read_text())[algorithm]
        for path in PAGES.glob("*.md")
        if algorithm in networks_of(path.read_text())
    }
    renormed = {"batch_renorm": True}
    for action in actions_of(algorithm):
        if "dueling ones where actions are discrete" in said:
            dueling = action == "Discrete"
        else:
            dueling = "all six" in said
        for net in NETS:
            listed = "all six" in said or f"`{net}`" in said or (dueling and net in ("DuelingMLPNet", "DuelingConvNet"))
            keys = renormed if algorithm == "CrossQ" and "Recurrent" not in net else {}
            assert fits(algorithm, action, {"type": net} | keys) == listed, (action, net)
        assert fits(algorithm, action, {"type": "MLPNet"} | renormed) == ("batch_renorm" in said)
