"""The probe ladder in one program: every probe times five seeds are the sessions of one population.

Compiling costs more than learning does here, so all probes share one environment that steps each of them and shows
one, chosen in its state; what differs between probes in an agent (gamma) is data and may differ between sessions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from agents import spec_of
from probes import (
    CENTRES,
    TARGET,
    best_action,
    box_in,
    constant_reward,
    delayed_reward,
    far_reset,
    limit_at_the_end,
    matching_action,
    observed_reward,
    reset_later,
    time_limit,
)

from slmjax import schedules
from slmjax.batches import stack
from slmjax.envs import vectorize
from slmjax.lab.trial import make_agent
from slmjax.population import make_population
from slmjax.session import MAX_ROWS, make_program, session_key
from slmjax.types import Discrete, Env, Space, VectorEnv

SEEDS = 5


class Probe(NamedTuple):
    """An environment and what an agent must have found: at each observation, its value and, if any, its action."""

    env: Env
    gamma: float
    obs: tuple[float, ...]
    value: tuple[float, ...]
    tolerance: float
    action: tuple[float, ...] = ()
    backend: Callable[[Env, int], VectorEnv] = vectorize


PROBES = {
    "constant reward": Probe(constant_reward(), 0.9, (0.0,), (1.0,), 0.02),
    "observed reward": Probe(observed_reward(), 0.9, (-1.0, 1.0), (-1.0, 1.0), 0.05),
    "delayed reward": Probe(delayed_reward(), 0.5, (0.0, 1.0), (0.5, 1.0), 0.02),
    "best action": Probe(best_action(), 0.9, (0.0,), (1.0,), 0.1, (1,)),
    "matching action": Probe(matching_action(), 0.9, (-1.0, 1.0), (1.0, 1.0), 0.1, (0, 1)),
    "time limit": Probe(time_limit(), 0.8, (0.0,), (5.0,), 0.1),
    "limit at the end": Probe(limit_at_the_end(), 0.9, (0.0,), (1.0,), 0.02),
    "far reset": Probe(far_reset(), 0.8, (-1.0, 1.0), (-16.0, 5.0), 0.4),
}
PROBES["reset later"] = PROBES["far reset"]._replace(backend=reset_later)

# The same for those who act in nothing but a box.
BOXED = {name: probe._replace(env=box_in(probe.env)) for name, probe in PROBES.items()}
BOXED["best action"] = Probe(best_action(continuous=True), 0.9, (0.0,), (0.0,), 0.1, (TARGET,))
BOXED["matching action"] = Probe(matching_action(continuous=True), 0.9, (-1.0, 1.0), (0.0, 0.0), 0.2, CENTRES[::-1])


class Suite(NamedTuple):
    """Every probe's state, and which of them is seen."""

    which: jax.Array
    states: tuple
    obs: tuple


def suite(probes: list[Probe], num_envs: int, action_space: Space) -> VectorEnv:
    """All probes side by side; `state.which` says which one the agent lives in."""
    inner = [probe.backend(probe.env, num_envs) for probe in probes]

    def reset(key):
        states, obs = zip(*[env.reset(key) for env in inner], strict=True)
        return Suite(jnp.int32(0), states, obs), obs[0]

    def step(key, state, action):
        after = [env.step(key, s, action) for env, s in zip(inner, state.states, strict=True)]
        states, steps = zip(*after, strict=True)
        seen = jax.tree.map(lambda *x: jnp.stack(x)[state.which], *steps)
        return Suite(state.which, states, tuple(s.obs for s in steps)), seen

    longest = max(env.max_steps for env in inner)
    return VectorEnv(reset, step, inner[0].observation_space, action_space, num_envs, longest)


class Climb(NamedTuple):
    """What came out: the agent, and of each lane `[probe, seed]` what it knows, less its memory, and its hp."""

    agent: Any
    probes: dict[str, Probe]
    state: Any
    hp: Any
    failed: np.ndarray


def cooling(frames: int, lr: float = 1e-2) -> dict:
    """A learning rate that ends near 0, so that what is found stays where it is."""
    return {"optim_spec": {"lr": {"name": "linear_decay", "start_val": lr, "end_val": 1e-4, "end_step": frames}}}


def ascend(spec: Any, probes: dict[str, Probe], action_space: Space) -> Climb:
    """A spec on every probe at once, five sessions each."""
    names, lanes, frames = list(probes), len(probes) * SEEDS, spec.env.max_frame
    env = suite(list(probes.values()), spec.env.num_envs, action_space)
    agent = make_agent(spec, env)
    size = agent.horizon * env.num_envs
    program = make_program(agent, env, env, frames)
    population = make_population(program, lanes, lanes=SEEDS, threads=2)
    which = jnp.repeat(jnp.arange(len(names)), SEEDS)
    gamma = jnp.repeat(jnp.asarray([probes[p].gamma for p in names], jnp.float32), SEEDS)
    hp = stack([spec.hp] * lanes)
    if hasattr(hp.algorithm, "gamma"):
        hp = hp._replace(algorithm=dataclasses.replace(hp.algorithm, gamma=gamma))
    keys = jax.vmap(lambda i: session_key(0, 0, i))(jnp.arange(lanes))
    placed = population.place(hp)
    sessions = population.gather(population.init(population.place(keys), placed))
    obs = np.stack(sessions.env.obs)[np.asarray(which), np.arange(len(which))]
    sessions = sessions._replace(env=sessions.env._replace(which=which), obs=obs)
    stop = frames // size * size
    batches, _ = population.segment(population.place(sessions), placed, 0, stop)
    assert stop <= MAX_ROWS * program.row_frames
    now = jax.vmap(lambda hp: schedules.at(hp, jnp.int32(stop)))(hp)
    sessions = population.gather(batches)
    return Climb(agent, probes, sessions.agent._replace(memory=()), now, np.asarray(sessions.failed))


@functools.cache
def climb(name: str, frames: int) -> Climb:
    """An algorithm on `PROBES`."""
    return ascend(spec_of(name, "probes:best_action", frames), PROBES, Discrete(2))


def found(climbed: Climb, probe: str, values) -> tuple[np.ndarray, np.ndarray]:
    """Greedy actions and values `[seed, obs]` at the probe's observations.

    `values(agent, state, obs [B, 1], hp) -> [B]` reads the value out of one lane.
    """
    place = list(climbed.probes).index(probe)
    lanes = jnp.arange(place * SEEDS, (place + 1) * SEEDS)
    obs = jnp.asarray(climbed.probes[probe].obs, jnp.float32)[:, None]
    state, hp = jax.tree.map(lambda x: jnp.asarray(np.asarray(x))[lanes], (climbed.state, climbed.hp))

    def one(state, hp):
        carry = climbed.agent.carry(len(obs))
        action = climbed.agent.act(state.policy, obs, carry, jax.random.key(0), hp, True)[0]
        return action, values(climbed.agent, state, obs, hp)

    actions, value = jax.vmap(one, in_axes=(0, hp_axes(hp)))(state, hp)
    return np.asarray(actions), np.asarray(value)


def hp_axes(hp):
    """Every leaf of `hp` has the axis of lanes, `frame` too once schedules have been read."""
    return jax.tree.map(lambda x: 0, hp)
