"""The smallest agent of every registered algorithm, and environments of every space: cheap to trace and to compile."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import slmjax
from slmjax import registry
from slmjax.batches import stack
from slmjax.envs import make_env
from slmjax.lab.trial import make_agent
from slmjax.session import make_program, session_key
from slmjax.types import Box, Dict, Discrete, Env, MultiBinary, MultiDiscrete

OBSERVATIONS = {
    "Discrete": Discrete(5),
    "Box float32": Box(-1.0, 1.0, (3,)),
    "Box float64": Box(-1.0, 1.0, (3,), np.float64),
    "Box uint8 image": Box(0, 255, (5, 5, 2), jnp.uint8),
    "Box scalar": Box(-1.0, 1.0),
    "MultiDiscrete": MultiDiscrete((3, 2)),
    "MultiBinary": MultiBinary(3),
    "Dict": Dict({"a": Discrete(3), "b": Box(-1.0, jnp.inf, (2,))}),
    "nested Dict": Dict({"a": Box(-1.0, 1.0), "b": Dict({"c": Discrete(2), "d": Box(0, 255, (5, 5, 1), jnp.uint8)})}),
}
EVERYTHING = "all of them"  # in one Dict: what each algorithm really runs on, for compiling is what costs
SPACES = OBSERVATIONS | {EVERYTHING: Dict(OBSERVATIONS)}
ACTIONS = {
    "Discrete": Discrete(3),
    "Box symmetric": Box(-1.0, 1.0, (2,)),
    "Box asymmetric": Box(np.array([[-2.0, 0.0, -1.0], [-3.0, 1.0, 0.0]]), np.array([[5, 1, 0], [3, 2, 9]]), (2, 3)),
    "MultiDiscrete": MultiDiscrete((3, 2)),
    "MultiBinary": MultiBinary(3),
}

ALGORITHMS = registry.names("algorithm")
STEPS = 5  # of an episode; rollouts have 4, so that episodes and rollouts overlap
ENVS = 2
ALGORITHM_KEYS = {"time_horizon": 4, "minibatch_size": 4, "training_epoch": 2, "training_frequency": 4}
ALGORITHM_KEYS |= {"training_iter": 2, "training_start_step": 8}
MEMORY_KEYS = {"batch_size": 4, "max_size": 32}
MLP = {"hid_layers": [4]}
CONV = {"type": "ConvNet", "conv_hid_layers": [[2, 3]], "fc_hid_layers": [4]}
NEEDS = {"CrossQ": {"batch_renorm": True}}  # keys of a network without which an algorithm refuses to work


class State(NamedTuple):
    """Of an environment: the step, what the episode began with, and what the actions of this episode were."""

    time: jax.Array
    start: jax.Array
    trail: jax.Array


def spaces(observation: str, action: str) -> Env:
    """Observations of one space and actions of another; both say at which step of an episode they were made."""
    seen, acted = SPACES[observation], ACTIONS[action]

    def reset(key):
        state = State(jnp.int32(0), jax.random.uniform(key), jnp.float32(0.0))
        return state, _observe(seen, state)

    def step(key, state, action):
        trail = 0.7 * state.trail + jnp.mean(
            action.astype(jnp.float32) * jnp.arange(1, action.size + 1).reshape(action.shape)
        )
        state = State(state.time + 1, state.start, trail)
        ended = state.time >= STEPS
        by_limit = ended & (state.start < 0.5)
        return state, _observe(seen, state), jnp.sin(trail), ended & ~by_limit, by_limit

    return Env(reset, step, seen, acted, max_steps=STEPS)


def _observe(space, state):
    if isinstance(space, Dict):
        return {name: _observe(part, state) for name, part in space.spaces.items()}
    if not isinstance(space, Box):
        sizes = {Discrete: lambda: space.n, MultiDiscrete: lambda: np.array(space.nvec), MultiBinary: lambda: 2}
        return jnp.broadcast_to(state.time % sizes[type(space)](), space.shape)
    share = (state.start + state.time / STEPS) / 2.0
    top = np.where(np.isfinite(space.high), space.high, 1.0).astype(space.dtype)
    return (space.low + (top - space.low) * share).astype(jnp.uint8 if space.dtype == jnp.uint8 else jnp.float32)


def actions_of(algorithm: str) -> list[str]:
    """The action spaces that it can act in."""
    able = registry.resolve("algorithm", algorithm).actions
    return [name for name, space in ACTIONS.items() if isinstance(space, able)]


def spec_of(
    algorithm: str,
    observation: str,
    action: str,
    net: dict | None = None,
    memory: dict | None = None,
    keys: dict | None = None,
):
    """A spec of the smallest agent: whatever the algorithm and its memory let be small is. `keys` are its own."""
    known = registry.resolve("algorithm", algorithm)
    agent: dict[str, Any] = {"algorithm": {"name": algorithm} | _known(known.hyper, ALGORITHM_KEYS | (keys or {}))}
    agent["net"] = (MLP | NEEDS.get(algorithm, {})) if net is None else net
    if known.memories:
        name = (memory or {}).get("name", known.memories[0])
        small = _known(registry.resolve("memory", name).hyper, MEMORY_KEYS)
        agent["memory"] = {"name": name} | small | (memory or {})
    env = {"name": "tiny:spaces", "kwargs": {"observation": observation, "action": action}}
    return slmjax.load_spec({"name": "tiny", "agent": agent, "env": env | {"num_envs": ENVS, "max_frame": 64}})


def _known(hyper: type, keys: dict) -> dict:
    return {name: value for name, value in keys.items() if hasattr(hyper, name)}


@cache
def env_of(observation: str, action: str):
    """The environments of a spec, made once; they keep the contract (`check_env`)."""
    return make_env(spec_of("Random", observation, action).env)


class Lab(NamedTuple):
    """The compiled functions of `size` sessions side by side: `init(keys) -> sessions` and
    `segment(sessions, frame, stop) -> (sessions, rows)`; a size of 0 is a session alone, without that axis.

    `first` is the frame at which the first update has been made, `frames` those of one update.
    """

    init: Any
    segment: Any
    first: int
    frames: int


def lab(spec, size: int) -> Lab:
    """The program of a spec."""
    env = env_of(**spec.env.kwargs)
    program = make_program(make_agent(spec, env), env, env, 1)
    hp = jax.tree.map(lambda x: x[0], stack([spec.hp])) if size == 0 else stack([spec.hp] * size)
    lanes = (lambda f, axes: f) if size == 0 else jax.vmap
    init = jax.jit(lanes(program.init, (0, 0)))
    segment = jax.jit(lanes(program.segment, (0, 0, None, None)))
    frames = program.iteration_frames
    return Lab(
        lambda keys: init(keys, hp),
        lambda sessions, frame, stop: segment(sessions, hp, jnp.int32(frame), jnp.int32(stop)),
        (program.warmup_iterations + 1) * frames,
        frames,
    )


def diagonal(algorithm: str) -> str:
    """The action space that an algorithm really runs in; neighbours in the registry get different ones."""
    able = actions_of(algorithm)
    return able[ALGORITHMS.index(algorithm) % len(able)]


@cache
def population(algorithm: str) -> Lab:
    """Eight sessions that see every observation space at once; compiled once for all tests of a process."""
    return lab(spec_of(algorithm, EVERYTHING, diagonal(algorithm)), 8)


def keys(size: int, seed: int = 0) -> jax.Array:
    """One key a session."""
    return jax.vmap(lambda i: session_key(seed, 0, i))(jnp.arange(size))


def run(lab: Lab, keys: jax.Array, *stops: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Sessions after segments that end at the given frames, and the log rows of each, `[S, rows]`."""
    sessions, frame, rows = lab.init(keys), 0, []
    for stop in stops:
        sessions, logs = lab.segment(sessions, frame, stop)
        rows.append(jax.tree.map(lambda x, n=(stop - frame) // lab.frames: np.asarray(x)[:, :n], logs))
        frame = stop
    return sessions, jax.tree.map(lambda *x: np.concatenate(x, 1), *rows)


def assert_finite(sessions: Any, rows: dict[str, np.ndarray]) -> None:
    """After two updates every metric and every number that an agent knows is finite."""
    assert (np.asarray(sessions.failed) == -1).all()
    assert (rows["updates"].sum(1) == 2).all()
    for tree in (sessions.agent, rows):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            assert np.isfinite(np.asarray(leaf)).all(), jax.tree_util.keystr(path)
