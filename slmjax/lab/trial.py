"""From a spec to the things that run: environments, agent, program, population."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax import registry
from slmjax.batches import Batches
from slmjax.envs import make_env
from slmjax.lab.devices import cores
from slmjax.lab.memory import refuse_what_does_not_fit
from slmjax.population import Population, make_population
from slmjax.session import Program, Session, make_program, session_key
from slmjax.spec import locate
from slmjax.spec.errors import expect, refuse_unread
from slmjax.spec.sections import MOST_FRAMES, Spec
from slmjax.spec.static import static_only
from slmjax.types import Agent, Algorithm, SpecError, VectorEnv

# Environments from which on a session keeps a core busy alone.
MANY = 8


class Trial(NamedTuple):
    """One spec, ready to run.

    Attributes:
        spec: what was asked for.
        program: the functions of one session.
        population: the same over all sessions.
        keys: one key a session, in batches on the devices.
        hp: hyperparameters of each session, in batches on the devices.
    """

    spec: Spec
    program: Program
    population: Population
    keys: Batches
    hp: Batches


def check_spec(spec: Any) -> None:
    """Says what a spec is to somebody who hands over the name of its file.

    Raises:
        UserError: `spec` is not a spec.
    """
    expect(Spec, spec, "a spec, which slmjax.load_spec(FILE) reads")


def make_agent(spec: Spec, env: VectorEnv | None = None) -> Agent:
    """The agent that a spec describes: `init`, `act`, `update`, to `jit` and `vmap` at will.

    Raises:
        UserError: `spec` is not a spec.
        SpecError: the algorithm cannot act in the environment, or its keys contradict each other.
    """
    check_spec(spec)
    env = env or make_env(spec.env)
    name = spec.agent.algorithm.name
    algorithm: Algorithm = registry.resolve("algorithm", name)
    if not isinstance(env.action_space, algorithm.actions):
        able = [
            n
            for n in registry.names("algorithm")
            if isinstance(env.action_space, registry.resolve("algorithm", n).actions)
        ]
        raise SpecError(
            f"{name} cannot act in {spec.env.name}, whose actions are {env.action_space}. "
            f"These can: {', '.join(able)}.",
            "agent.algorithm.name",
        )
    _refuse_unread(spec, algorithm, env)
    return algorithm.make(static_only(spec.hp), env)


def _refuse_unread(spec: Spec, algorithm: Algorithm, env: VectorEnv) -> None:
    net, why = spec.agent.net, f"{spec.agent.algorithm.name} has no use for it"
    refuse_unread(net, "agent.net", why, *algorithm.unread)
    for name, space in algorithm.only_for.items():
        if not isinstance(env.action_space, space):
            refuse_unread(spec.agent.algorithm, "agent.algorithm", f"it is for {space.__name__} actions", name)
    if getattr(net, "update_type", "") == "replace":
        refuse_unread(net, "agent.net", "it is for update_type: polyak", "polyak_coef")
    else:
        refuse_unread(net, "agent.net", "it is for update_type: replace", "update_frequency")


def make_session(spec: Spec, env: VectorEnv | None = None) -> Program:
    """The program of one session of a spec: `init`, `segment`, `evaluate`, pure functions.

    `env` stands in for the environments that the spec names.

    Raises:
        UserError: see `make_agent`.
        SpecError: see `make_agent`.
    """
    check_spec(spec)
    env = env or make_env(spec.env)
    eval_env = make_env(dataclasses.replace(spec.env, num_envs=spec.meta.eval_episodes))
    return make_program(make_agent(spec, env), env, eval_env, spec.meta.log_frequency)


def make_trial(spec: Spec, trial: int = 0) -> Trial:
    """Everything that one trial needs, placed on the devices but not compiled.

    Raises:
        SpecError: see `make_agent`; its text says where in the file the wrong key is.
        UserError: the sessions do not fit the memory.
    """
    try:
        program = make_session(spec)
        # Nothing is compiled yet, but every shape and every name is used: what is wrong shows here.
        one = jax.eval_shape(program.init, jax.eval_shape(lambda: session_key(0, 0, 0)), spec.hp)
    except SpecError as error:
        raise locate(error, spec) from error
    row = program.row_frames
    if (rows := -(-budget(spec, program) // row) * row) > MOST_FRAMES:
        name = "meta.log_frequency" if row > MOST_FRAMES else "env.max_frame"
        fault = f"too many frames: whole log rows of {row} come to {rows}, and at most {MOST_FRAMES} can be counted."
        raise locate(SpecError(fault, name), spec)
    threads = cores() if jax.default_backend() == "cpu" else 1
    population = make_population(
        program, spec.meta.max_session, lanes=_lanes(spec, one), threads=threads, normalising=normalises(spec)
    )
    refuse_what_does_not_fit(one, population)
    # In the spec, which is kept with the run: what a session learns depends on it to the last bit.
    spec = dataclasses.replace(spec, meta=dataclasses.replace(spec.meta, lanes=population.lanes))
    keys = jax.vmap(lambda i: session_key(spec.meta.seed, trial, i))(jnp.arange(spec.meta.max_session))
    return Trial(spec, program, population, population.place(keys), population.repeat(spec.hp))


def _lanes(spec: Spec, one: Session) -> int | None:
    """Sessions of a batch, None: all of a device.

    On a CPU it follows from the spec alone, never from how many sessions it has, and so do a session's last bits. It is
    two where a session is small: its time goes into starting operations, which company shares; four would give little
    more, and a session alone would take twice as long. Any larger one is only slowed down by what no longer fits the
    caches. An accelerator wants as much at once as there is.
    """
    if spec.meta.lanes is not None:
        return spec.meta.lanes
    if jax.default_backend() != "cpu":
        return None
    images = any(x.ndim > 2 for x in jax.tree.leaves(one.obs))  # [E, ...]
    return 2 if spec.env.num_envs < MANY and not images else 1


def normalises(spec: Spec) -> bool:
    """Whether networks standardise features."""
    return any(getattr(spec.agent.net, name, False) for name in ("layer_norm", "batch_renorm"))


def budget(spec: Spec, program: Program) -> int:
    """Frames of a run: `env.max_frame`, rounded up to whole iterations."""
    return -(-spec.env.max_frame // program.iteration_frames) * program.iteration_frames
