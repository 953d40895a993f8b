"""Probe environments: each isolates one ability of an agent and has an answer in closed form (Andy Jones' ladder).

A probe is an `Env`; batch it with `slmjax.envs.vectorize`. `GAMMA` is nothing to the environments: where the answer
depends on the discount, the docstring says how. In a spec a probe is `tests.probes:constant_reward`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slmjax.types import Box, Discrete, Env, Key

TARGET = 0.3  # the best action of the continuous probes
CENTRES = (2.7, TARGET)  # matching_action, continuous: the best action at obs +1 and at obs -1

_OBS = Box(-1.0, 1.0, (1,))
_ACTION = Box(-2.0, 5.0, (1,))  # lopsided on purpose: a policy that forgets to rescale lands elsewhere


def _fixed(value: float):
    return jnp.full((1,), value, jnp.float32)


def _sign(key: Key):
    return jax.random.rademacher(key, (1,), jnp.float32)


def _one_step(reset, reward, action_space) -> Env:
    """Episodes of one step whose state is the observation; `reward(obs, action)`."""

    def step(key, obs, action):
        return obs, obs, reward(obs, action), jnp.array(True), jnp.array(False)

    def start(key):
        obs = reset(key)
        return obs, obs

    return Env(start, step, _OBS, action_space, max_steps=1)


def constant_reward() -> Env:
    """P1. One constant observation (0), reward 1, one step. V(0) = 1. Fails: value loss, optimiser."""
    return _one_step(lambda key: _fixed(0.0), lambda obs, action: jnp.float32(1.0), Discrete(1))


def observed_reward() -> Env:
    """P2. Observation +1 or -1 by a coin, reward = observation, one step. V(o) = o. Fails: backpropagation."""
    return _one_step(_sign, lambda obs, action: obs[0], Discrete(1))


def delayed_reward() -> Env:
    """P3. Two steps, observations 0 then 1, reward 1 at the end. V(1) = 1, V(0) = gamma. Fails: discounting."""

    def reset(key):
        return jnp.int32(0), _fixed(0.0)

    def step(key, steps, action):
        steps = steps + 1
        done = steps >= 2
        return steps, _fixed(1.0), done.astype(jnp.float32), done, jnp.array(False)

    return Env(reset, step, _OBS, Discrete(1), max_steps=2)


def best_action(continuous: bool = False) -> Env:
    """P4. One constant observation, one step; the reward depends on the action alone. Fails: the policy's loss.

    Discrete: action 1 gives +1, action 0 gives -1; the best policy's value is 1, the uniform one's 0.
    Continuous: reward -(a - 0.3)^2 in Box[-2, 5]; the best action is 0.3, its value 0.
    """
    if continuous:
        return _one_step(lambda key: _fixed(0.0), lambda obs, a: -((a[0] - TARGET) ** 2), _ACTION)
    return _one_step(lambda key: _fixed(0.0), lambda obs, a: 2.0 * a - 1.0, Discrete(2))


def matching_action(continuous: bool = False) -> Env:
    """P5. Observation +1 or -1 by a coin, one step; the best action depends on it. Fails: batching, stale samples.

    Discrete: +1 when the action matches (1 at +1, 0 at -1), else -1; the best policy's value is 1 at both.
    Continuous: reward -(a - c)^2 in Box[-2, 5], c = 2.7 at +1 and 0.3 at -1; the best policy's value is 0 at both.
    """
    if continuous:
        high, low = CENTRES
        return _one_step(_sign, lambda obs, a: -((a[0] - jnp.where(obs[0] > 0, high, low)) ** 2), _ACTION)
    return _one_step(_sign, lambda obs, a: obs[0] * (2.0 * a - 1.0), Discrete(2))


def time_limit(steps: int = 8) -> Env:
    """P6. One constant observation, reward 1, never terminates, truncated after `steps`. V = 1 / (1 - gamma): 50 at
    gamma 0.98. A learner that takes the limit for a death finds 1 / (1 - gamma (steps - 1) / steps), which is 7.
    """

    def reset(key):
        return jnp.int32(0), _fixed(0.0)

    def step(key, taken, action):
        taken = taken + 1
        return taken, _fixed(0.0), jnp.float32(1.0), jnp.array(False), taken >= steps

    return Env(reset, step, _OBS, Discrete(1), max_steps=steps)


def limit_at_the_end() -> Env:
    """P7. One constant observation, reward 1, and the first step sets terminated and truncated both. Termination wins:
    V = 1. A learner that bootstraps finds 1 / (1 - gamma).
    """

    def reset(key):
        return (), _fixed(0.0)

    def step(key, state, action):
        return state, _fixed(0.0), jnp.float32(1.0), jnp.array(True), jnp.array(True)

    return Env(reset, step, _OBS, Discrete(1), max_steps=1)


START_REWARD = -20.0


def far_reset(steps: int = 4) -> Env:
    """P8. The first observation is -1 and its step costs 20; from then on it is +1 and pays 1. Never terminates,
    truncated after `steps`. V(+1) = 1 / (1 - gamma), V(-1) = -20 + gamma / (1 - gamma): 10 and -11 at gamma 0.9. A
    learner that bootstraps from the observation after the reset mixes the two: V(+1) becomes -38.
    """

    def reset(key):
        return jnp.int32(0), _fixed(-1.0)

    def step(key, taken, action):
        reward = jnp.where(taken == 0, START_REWARD, 1.0)
        taken = taken + 1
        return taken, _fixed(1.0), reward, jnp.array(False), taken >= steps

    return Env(reset, step, _OBS, Discrete(1), max_steps=steps)


def boxed(probe: str, **kwargs) -> Env:
    """A probe of this file with an action in Box[-2, 5] that it never sees, for those who act in nothing else."""
    env = globals()[probe](**kwargs)
    return env._replace(action_space=_ACTION, step=lambda key, state, action: env.step(key, state, jnp.int32(0)))


class Poison(NamedTuple):
    """The state of `nan_reward`. Set `poisoned` by hand to choose the lane that fails."""

    obs: jax.Array
    steps: jax.Array
    poisoned: jax.Array


def nan_reward(probability: float = 0.02, at: int = 16, value: float = float("nan")) -> Env:
    """Lane isolation. One endless episode: observation +1 or -1 by a coin at each step, reward +1 for the matching
    action, else -1; but where the reset drew `poisoned` (with `probability`), rewards are `value` from step `at` on.

    Nothing ends, so the draw of the first reset decides: with E environments a session fails with probability
    1 - (1 - probability)^E, and `state.poisoned` says in advance which. V of the best policy is 1 / (1 - gamma).
    """

    def reset(key):
        first, flag = jax.random.split(key)
        obs = _sign(first)
        return Poison(obs, jnp.int32(0), jax.random.bernoulli(flag, probability)), obs

    def step(key, state, action):
        steps, obs = state.steps + 1, _sign(key)
        reward = state.obs[0] * (2.0 * action - 1.0)
        reward = jnp.where(state.poisoned & (steps >= at), value, reward)
        return Poison(obs, steps, state.poisoned), obs, reward, jnp.array(False), jnp.array(False)

    return Env(reset, step, _OBS, Discrete(2))
