"""The probe ladder in one program: every probe times five seeds are the sessions of one population.

Compiling costs more than learning does here, so all probes share one environment that steps each of them and shows
one, chosen in its state; what differs between probes in an agent (gamma) is data and may differ between sessions.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from agents import spec_of
from probes import (
    best_action,
    boxed,
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
from slmjax.types import Box, Discrete, Env, VectorEnv

SEEDS = 5


class Probe(NamedTuple):
    """An environment and what an agent must have found: at each observation, its value and, if any, its action."""

    env: Env
    gamma: float
    obs: tuple[float, ...]
    value: tuple[float, ...]
    tolerance: float
    action: tuple[float, ...] = ()


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


# For actors in Box[-2, 5]: the probes whose action nobody sees, and those that ask for one within the box.
CONTINUOUS = {
    name: probe._replace(env=boxed(name.replace(" ", "_")))
    for name, probe in PROBES.items()
    if name not in ("best action", "matching action")
}
CONTINUOUS |= {
    "best action": Probe(best_action(continuous=True), 0.9, (0.0,), (0.0,), 0.1, (0.3,)),
    "matching action": Probe(matching_action(continuous=True), 0.9, (-1.0, 1.0), (0.0, 0.0), 0.1, (0.3, 2.7)),
}


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
    actions = inner[0].action_space if isinstance(inner[0].action_space, Box) else Discrete(2)
    return VectorEnv(reset, step, inner[0].observation_space, actions, num_envs, longest)


class Climb(NamedTuple):
    """What came out: the agent, and what it knows and hyperparameters of each lane `[probe, seed]`."""

    env: VectorEnv
    agent: Any
    policy: Any
    learner: Any
    hp: Any
    failed: np.ndarray


@functools.cache
def climb(name: str, frames: int, continuous: bool = False) -> Climb:
    """An algorithm on every probe at once."""
    probes = CONTINUOUS if continuous else PROBES
    calm = {"training_start_step": 1024, "training_iter": 16} if continuous else {}
    # A temperature would put the entropy to come into the values.
    cold = {"fixed_alpha": 0.0} if name == "SoftActorCritic" else {}
    lr = {"start_val": 1e-2, "end_val": 1e-4, "end_step": frames} if calm or cold else 5e-3
    changes = {"algorithm": calm | cold, "net": {"optim_spec": {"lr": lr}}}
    spec = spec_of(name, "probes:best_action", frames, kwargs={"continuous": continuous}, **changes)
    names, lanes = list(probes), len(probes) * SEEDS
    env = suite([probes[p].env for p in names], spec.env.num_envs)
    agent = make_agent(spec, env)
    size = agent.horizon * env.num_envs
    program = make_program(agent, env, env, frames)
    population = make_population(program, lanes)
    which = jnp.repeat(jnp.arange(len(names)), SEEDS)
    gamma = jnp.repeat(jnp.asarray([probes[p].gamma for p in names], jnp.float32), SEEDS)
    hp = stack([spec.hp] * lanes)
    if hasattr(hp.algorithm, "gamma"):
        hp = hp._replace(algorithm=dataclasses.replace(hp.algorithm, gamma=gamma))
    keys = jax.vmap(lambda i: session_key(0, 0, i))(jnp.arange(lanes))
    hp, keys = population.pad(hp), population.pad(keys)
    sessions = population.init(keys, hp)
    obs = jax.vmap(lambda w, obs: jnp.stack(obs)[w])(which, sessions.env.obs)
    sessions = sessions._replace(env=sessions.env._replace(which=which), obs=obs)
    stop = frames // size * size
    sessions, _ = population.segment(population.pad(sessions), hp, 0, stop)
    assert stop <= MAX_ROWS * program.row_frames
    now = jax.vmap(lambda hp: schedules.at(hp, jnp.int32(stop)))(hp)
    return Climb(env, agent, sessions.agent.policy, sessions.agent.learner, now, np.asarray(sessions.failed))


def found(climbed: Climb, probe: str, values) -> tuple[np.ndarray, np.ndarray]:
    """Greedy actions and values `[seed, obs]` at the probe's observations.

    `values(climbed, policy, learner, obs [B, 1], hp, action) -> [B]` reads the value out of one lane.
    """
    probes = CONTINUOUS if isinstance(climbed.env.action_space, Box) else PROBES
    place = list(probes).index(probe)
    lanes = jnp.arange(place * SEEDS, (place + 1) * SEEDS)
    obs = jnp.asarray(probes[probe].obs, jnp.float32)[:, None]
    known = climbed.policy, climbed.learner, climbed.hp
    policy, learner, hp = jax.tree.map(lambda x: jnp.asarray(np.asarray(x))[lanes], known)

    def one(policy, learner, hp):
        action = climbed.agent.act(policy, obs, climbed.agent.carry(len(obs)), jax.random.key(0), hp, True)[0]
        return action, values(climbed, policy, learner, obs, hp, action)

    actions, value = jax.vmap(one)(policy, learner, hp)
    return np.asarray(actions), np.asarray(value)
