"""What all policies of one spec share, made when it is first asked for."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax import schedules
from slmjax.envs import make_env
from slmjax.lab.trial import make_agent, make_session
from slmjax.session import session_key
from slmjax.spec import load_spec
from slmjax.spec.dump import to_dict
from slmjax.spec.sections import Spec
from slmjax.types import HP, Agent, PyTree, VectorEnv


def lazily(make: Any) -> Any:
    """A property that is made once and never of tracers, though somebody's `jit` may be the first to ask for it."""

    def outside(self: Any) -> Any:
        with jax.ensure_compile_time_eval():
            return make(self)

    made: Any = functools.cached_property(outside)
    made.__doc__ = make.__doc__
    return made


@dataclasses.dataclass(frozen=True, eq=False)
class Kit:
    """What all policies of one spec share: the agent and its environments, and with them the compiled programs.

    They are functions, so only the spec travels to another process; there they are made when first asked for.
    """

    spec: Spec

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.spec.name, **to_dict(self.spec)}

    def __setstate__(self, written: dict[str, Any]) -> None:
        object.__setattr__(self, "spec", load_spec(written))

    def __deepcopy__(self, memo: Any) -> "Kit":
        return self  # nothing in it ever changes, and a copy would compile again

    @lazily
    def env(self) -> VectorEnv:
        """The environments of training."""
        return make_env(self.spec.env)

    @lazily
    def agent(self) -> Agent:
        """The pure functions."""
        return make_agent(self.spec, self.env)

    @lazily
    def hp(self) -> HP:
        """The hyperparameters as a population has them: float32, schedules as such."""
        return jax.tree.map(np.float32, self.spec.hp)

    @lazily
    def learned(self) -> PyTree:
        """Shapes of what a `Policy` holds: the state of the agent's policy, and the session's key."""
        key = jax.eval_shape(lambda: session_key(0, 0, 0))
        state = jax.eval_shape(lambda k: self.agent.init(k, schedules.at(self.hp, jnp.int32(0))).policy, key)
        return {"key": key, "state": state}

    @lazily
    def _made(self) -> dict[Any, Any]:
        return {}

    def copies(self, num_envs: int) -> VectorEnv:
        """So many of the spec's environments, always the same ones: what is compiled for them is found again."""
        name = ("env", num_envs)
        if name not in self._made:
            with jax.ensure_compile_time_eval():
                self._made[name] = make_env(dataclasses.replace(self.spec.env, num_envs=num_envs))
        return self._made[name]

    def sessions(self, size: int) -> PyTree:
        """Shapes of so many sessions."""
        if "session" not in self._made:
            with jax.ensure_compile_time_eval():
                key = jax.eval_shape(lambda: session_key(0, 0, 0))
                self._made["session"] = jax.eval_shape(make_session(self.spec).init, key, self.hp)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), self._made["session"])

    def carry(self, num_envs: int) -> PyTree:
        """Shapes of the carry of so many environments; without leaves where the agent needs none."""
        name = ("carry", num_envs)
        if name not in self._made:
            self._made[name] = jax.eval_shape(lambda: self.agent.carry(num_envs))
        return self._made[name]

    @lazily
    def remembers(self) -> bool:
        """Whether greedy actions are made of the carry: those of an agent that only explores by it are not."""
        return self._greedy_is_made_of("carry")

    @lazily
    def draws(self) -> bool:
        """Whether greedy actions are drawn, as a random agent's are."""
        return self._greedy_is_made_of("key")

    def _greedy_is_made_of(self, name: str) -> bool:
        hp = schedules.at(self.hp, jnp.int32(0))
        given = {"carry": self.carry(self.env.num_envs), "key": jax.random.key(0), "state": self.learned["state"]}
        given["obs"] = jax.eval_shape(self.env.reset, given["key"])[1]
        part = given.pop(name)

        def greedy(part: PyTree, given: dict[str, Any]) -> PyTree:
            by = {**given, name: part}
            return self.agent.act(by["state"], by["obs"], by["carry"], by["key"], hp, True)[0]

        traced = jax.make_jaxpr(greedy)(part, given).jaxpr
        given_first = len(jax.tree.leaves(part))
        return any(_made_of(traced, [i < given_first for i in range(len(traced.invars))]))


def _made_of(jaxpr: Any, given: list[bool]) -> list[bool]:
    """Which of its outputs a jaxpr makes of the given inputs."""
    made = {id(v) for v, among in zip(jaxpr.invars, given, strict=True) if among}
    for step in jaxpr.eqns:
        met = [id(v) in made for v in step.invars]
        inner = step.params.get("jaxpr") if step.primitive.name in ("jit", "pjit") else None
        outs = _made_of(inner.jaxpr, met) if inner is not None and any(met) else [any(met)] * len(step.outvars)
        made |= {id(v) for v, among in zip(step.outvars, outs, strict=True) if among}
    return [id(v) in made for v in jaxpr.outvars]
