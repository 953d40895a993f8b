"""The probe ladder in one program: every probe times five seeds are the sessions of one population.

Compiling costs more than learning does here, so all probes share one environment that steps each of them and shows
one, chosen in its state; what differs between probes in an agent (gamma) is data and may differ between sessions.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from agents import spec_of
from probes import (
    best_action,
    constant_reward,
    delayed_reward,
    far_reset,
    limit_at_the_end,
    matching_action,
    observed_reward,
    time_limit,
)

from slmjax.envs import vectorize
from slmjax.lab.build import make_agent
from slmjax.policies import schedules
from slmjax.population import make_population, stack
from slmjax.session import MAX_ROWS, make_program, session_key
from slmjax.types import Discrete, Env, VectorEnv

SEEDS = 5


class Probe(NamedTuple):
    """An environment and what an agent must have found: at each observation, its value and, if any, its action."""

    env: Env
    gamma: float
    obs: tuple[float, ...]
    value: tuple[float, ...]
    tolerance: float
    action: tuple[int, ...] = ()


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


class Suite(NamedTuple):
    """Every probe's state, and which of them is seen."""

    which: jax.Array
    states: tuple
    obs: tuple


def suite(probes: list[Env], num_envs: int) -> VectorEnv:
    """All probes side by side; `state.which` says which one the agent lives in."""
    inner = [vectorize(probe, num_envs) for probe in probes]

    def reset(key):
        states, obs = zip(*[env.reset(key) for env in inner], strict=True)
        return Suite(jnp.int32(0), states, obs), obs[0]

    def step(key, state, action):
        after = [env.step(key, s, action) for env, s in zip(inner, state.states, strict=True)]
        states, steps = zip(*after, strict=True)
        seen = jax.tree.map(lambda *x: jnp.stack(x)[state.which], *steps)
        return Suite(state.which, states, tuple(s.obs for s in steps)), seen

    longest = max(env.max_steps for env in inner)
    return VectorEnv(reset, step, inner[0].observation_space, Discrete(2), num_envs, longest)


class Climb(NamedTuple):
    """What came out: the agent, and policy and hyperparameters of each lane `[probe, seed]`."""

    agent: Any
    policy: Any
    hp: Any
    failed: np.ndarray


@functools.cache
def climb(name: str, frames: int) -> Climb:
    """An algorithm on every probe at once."""
    spec = spec_of(name, "probes:best_action", frames)
    names, lanes = list(PROBES), len(PROBES) * SEEDS
    env = suite([PROBES[p].env for p in names], spec.env.num_envs)
    agent = make_agent(spec, env)
    size = agent.horizon * env.num_envs
    program = make_program(agent, env, env, frames)
    population = make_population(program, lanes)
    which = jnp.repeat(jnp.arange(len(names)), SEEDS)
    gamma = jnp.repeat(jnp.asarray([PROBES[p].gamma for p in names], jnp.float32), SEEDS)
    hp = stack([spec.hp] * lanes)
    hp = hp._replace(algorithm=_with(hp.algorithm, gamma=gamma))
    keys = jax.vmap(lambda i: session_key(0, 0, i))(jnp.arange(lanes))
    hp, keys = population.pad(hp), population.pad(keys)
    sessions = population.init(keys, hp)
    obs = jax.vmap(lambda w, obs: jnp.stack(obs)[w])(which, sessions.env.obs)
    sessions = sessions._replace(env=sessions.env._replace(which=which), obs=obs)
    stop = frames // size * size
    sessions, _ = population.segment(population.pad(sessions), hp, 0, stop)
    assert stop <= MAX_ROWS * program.row_frames
    now = jax.vmap(lambda hp: schedules.at(hp, jnp.int32(stop)))(hp)
    return Climb(agent, sessions.agent.policy, now, np.asarray(sessions.failed))


def _with(keys, **changes):
    import dataclasses

    return dataclasses.replace(keys, **changes)


def found(climbed: Climb, probe: str, values) -> tuple[np.ndarray, np.ndarray]:
    """Greedy actions and values `[seed, obs]` at the probe's observations.

    `values(agent, policy, obs [B, 1], hp) -> [B]` reads the value out of one lane.
    """
    place = list(PROBES).index(probe)
    lanes = jnp.arange(place * SEEDS, (place + 1) * SEEDS)
    obs = jnp.asarray(PROBES[probe].obs, jnp.float32)[:, None]
    policy, hp = jax.tree.map(lambda x: jnp.asarray(np.asarray(x))[lanes], (climbed.policy, climbed.hp))

    def one(policy, hp):
        action = climbed.agent.act(policy, obs, climbed.agent.carry(len(obs)), jax.random.key(0), hp, True)[0]
        return action, values(climbed.agent, policy, obs, hp)

    actions, value = jax.vmap(one, in_axes=(0, hp_axes(hp)))(policy, hp)
    return np.asarray(actions), np.asarray(value)


def hp_axes(hp):
    """Every leaf of `hp` has the axis of lanes, `frame` too once schedules have been read."""
    return jax.tree.map(lambda x: 0, hp)
