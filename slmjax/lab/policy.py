"""What a session learned, handed out: it plays as it was evaluated, is saved, copied and sent to other processes."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax import schedules
from slmjax.envs.vector import cast
from slmjax.lab import leaves
from slmjax.lab.arrays import check, like
from slmjax.lab.fit import check_carry, check_ended, check_key, check_number, check_obs
from slmjax.lab.kit import Kit, lazily
from slmjax.maths.arrays import where
from slmjax.play import evaluation_key, play
from slmjax.spec import load_spec
from slmjax.spec.dump import to_dict
from slmjax.spec.errors import expect
from slmjax.spec.sections import Spec
from slmjax.types import HP, Agent, Array, Key, PyTree, UserError, VectorEnv

ENVIRONMENTS = "environments, which slmjax.make_env(spec.env) or slmjax.vectorize(env, num_envs) makes"


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """What one session learned; it acts in any number of environments at once, `[E, ...]`.

        carry = policy.start(num_envs)
        action, carry = policy.step(obs, carry, ended)

    All that it does is pure and may be part of what you `jit` and `vmap`; it compiles once for all policies of a
    `Result`. Copies, `pickle` and `save` keep everything.

    Attributes:
        label: whose it is, for people.
        kit: what it shares with the other policies of its spec.
        arrays: what was learned, by name, and the session's key.
        frame: frames of the session when it had learned that.
    """

    label: str
    kit: Kit
    arrays: dict[str, np.ndarray]
    frame: int

    def __repr__(self) -> str:
        return f"Policy({self.label})"

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def spec(self) -> Spec:
        """The spec of its trial."""
        return self.kit.spec

    @property
    def agent(self) -> Agent:
        """The pure functions it came from."""
        return self.kit.agent

    @property
    def state(self) -> PyTree:
        """What it acts by, `AgentState.policy`."""
        return self._learned["state"]

    @lazily
    def hp(self) -> HP:
        """Hyperparameters at its frame."""
        return schedules.at(self.kit.hp, jnp.int32(self.frame))

    @lazily
    def _learned(self) -> PyTree:
        return like(self.kit.learned, self.arrays)

    def start(self, num_envs: int) -> PyTree:
        """The carry of `num_envs` episodes that begin, `[num_envs, ...]`; `()` where the agent needs none.

        Raises:
            UserError: `num_envs` is no number of environments.
        """
        return self.agent.carry(check_number(num_envs, "environments"))

    def step(
        self, obs: PyTree, carry: PyTree, ended: Array | None = None, key: Key | None = None
    ) -> tuple[PyTree, PyTree]:
        """Actions for observations `[E, ...]`, and the carry for the next ones.

        Args:
            obs: what the environments show now.
            carry: from `start`, or from the step before.
            ended: bool `[E]`: an episode ended before this observation, which is the first of the next one.
            key: None: greedy, as in evaluation; else actions as in training (sampled, exploring).

        Raises:
            UserError: observations that do not fit the space, another carry than this policy's, `ended` not `[E]`, no
                key where even greedy actions are drawn.
        """
        check_key(key)
        if key is None and self.kit.draws:
            raise UserError("this policy draws its actions, also greedy ones: give step a `key`, a new one each time.")
        space = self.kit.env.observation_space
        num_envs = check_obs(space, obs)
        check_carry(self.kit.carry(num_envs), carry, num_envs)
        check_ended(ended, num_envs)
        return _step(self.agent, self.state, cast(space, obs), carry, ended, self.hp, key)

    def __call__(self, obs: PyTree, key: Key | None = None) -> PyTree:
        """`step` where what was seen before plays no part: actions `[E, ...]` alone.

        Raises:
            UserError: the actions depend on a carry; or see `step`.
        """
        carried = self.kit.remembers if key is None else jax.tree.leaves(self.kit.carry(1))
        if carried:
            does = "acts by what it saw before" if self.kit.remembers else "explores by noise that goes on"
            raise UserError(
                f"this policy {does}: carry = policy.start(num_envs), then "
                "action, carry = policy.step(obs, carry, ended); policy.play() plays whole episodes."
            )
        return self.step(obs, self.start(check_obs(self.kit.env.observation_space, obs)), None, key)[0]

    def play(self, env: VectorEnv | None = None, episodes: int | None = None, key: Key | None = None) -> Array:
        """Returns of greedy episodes, `[episodes]`, one in each of as many environments.

        Without arguments those of its session's evaluation at `frame`, number for number (of the final one, where
        training came to its end).

        Args:
            env: environments to play in; None: `episodes` copies of the spec's.
            episodes: how many; None: `meta.eval_episodes`, or as many as `env` has.
            key: what is random in it; None: the evaluation's.

        Raises:
            UserError: the policy cannot act in `env`, or it has another number of copies than `episodes`; `episodes` is
                not a number, or `key` not a key.
        """
        check_key(key)
        if episodes is not None:
            episodes = check_number(episodes, "episodes")
        if env is None:
            env = self.kit.copies(self.spec.meta.eval_episodes if episodes is None else episodes)
        else:
            self._check_env(env, episodes)
        bare = env._replace(observation_space=None, action_space=None, render=None)  # what can be hashed
        used = evaluation_key(self._learned["key"], self.frame) if key is None else key
        return _play(self.agent, bare, self.state, self.kit.hp, jnp.int32(self.frame), used)

    def _check_env(self, env: VectorEnv, episodes: int | None) -> None:
        expect(VectorEnv, env, ENVIRONMENTS)
        if episodes not in (None, env.num_envs):
            raise UserError(f"expected episodes={env.num_envs}, one in each environment, got {episodes}.")
        check_obs(self.kit.env.observation_space, jax.eval_shape(env.reset, jax.random.key(0))[1])
        if str(env.action_space) != str(self.kit.env.action_space):
            raise UserError(f"this policy acts in {self.kit.env.action_space}, got {env.action_space}.")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a folder, for `slmjax.load_policy`; a policy that is there is replaced.

        Raises:
            UserError: it cannot be written there.
        """
        keep(path, self.kit, {"kind": "policy", "label": self.label, "frame": self.frame}, self.arrays)


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """A policy that `Policy.save` wrote.

    The modules that its spec names (`module:attribute`) are imported, as `load_spec` does; nothing else runs.

    Raises:
        UserError: there is none, it is damaged, or its spec no longer makes such an agent.
    """
    kit, about, arrays = fetch(path, "policy", "frame", "label")
    check(kit.learned, arrays, f"the policy in {path}")
    return Policy(about["label"], kit, arrays, about["frame"])


def keep(path: str | os.PathLike[str], kit: Kit, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays with the spec that they belong to.

    Raises:
        UserError: they cannot be written there.
    """
    spec = {"name": kit.spec.name, **to_dict(kit.spec)}
    try:
        leaves.write(Path(path).expanduser(), about | {"spec": spec}, leaves.whole(arrays))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    except TypeError as error:  # an argument of an environment that is no plain value
        raise UserError(f"cannot write {path}: the spec holds what JSON cannot ({error}).") from error


def fetch(path: str | os.PathLike[str], kind: str, *facts: str) -> tuple[Kit, dict[str, Any], dict[str, np.ndarray]]:
    """What `keep` wrote, if it is of this kind and says these facts.

    Raises:
        UserError: there is none, it is damaged or of another kind, or the spec in it cannot work here.
    """
    about, arrays = leaves.read(Path(path).expanduser())
    got = about.get("kind")
    if got != kind:
        raise UserError(f"{path} holds {'a ' + got if isinstance(got, str) else 'something else'}, no {kind}.")
    for fact in ("spec", *facts):
        if fact not in about:
            raise UserError(f"cannot read {path}: {fact} is missing.")
    return Kit(load_spec(about["spec"])), about, arrays


@functools.partial(jax.jit, static_argnums=0)
def _step(
    agent: Agent, state: PyTree, obs: PyTree, carry: PyTree, ended: Array | None, hp: HP, key: Key | None
) -> tuple[PyTree, PyTree]:
    if ended is not None:
        carry = where(ended, agent.carry(ended.shape[0]), carry)
    used = jax.random.key(0) if key is None else key
    return agent.act(state, obs, carry, used, hp, key is None)[:2]


_play = jax.jit(play, static_argnums=(0, 1))
