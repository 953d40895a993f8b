"""Probe environments: each isolates one ability of an agent and has an answer in closed form (Andy Jones' ladder).

A probe is an `Env`; batch it with `slmjax.envs.vectorize`. `GAMMA` is nothing to the environments: where the answer
depends on the discount, the docstring says how. In a spec a probe is `tests.probes:constant_reward`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.envs.vector import strong
from slmjax.types import Box, Dict, Discrete, Env, Key, MultiBinary, MultiDiscrete, Step, VectorEnv

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


class Pending(NamedTuple):
    """The state of `reset_later`, `[E, ...]`: the environment's own, and whether its episode is over."""

    env: Any
    over: jax.Array


def reset_later(env: Env, num_envs: int) -> VectorEnv:
    """P9. A back end as EnvPool's: it resets on the step *after* an end, whose row is of no episode.

    After an end it goes on to show the last observation; the action taken there is for nothing, and its row holds a
    NaN reward. Fails: a learner that gives such rows a say, or lets an episode run through one.
    """

    def reset(key):
        states, obs = jax.vmap(env.reset)(jax.random.split(key, num_envs))
        return Pending(strong(states), jnp.zeros(num_envs, bool)), obs

    def step(key, state, action):
        step_key, reset_key = jax.random.split(key)
        after = jax.vmap(env.step)(jax.random.split(step_key, num_envs), state.env, action)
        fresh = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
        moved, obs, reward, terminated, truncated = after
        now, obs = jax.tree.map(
            lambda a, b: jnp.where(state.over.reshape(-1, *[1] * (b.ndim - 1)), a, b), fresh, (strong(moved), obs)
        )
        reward = jnp.where(state.over, jnp.nan, reward.astype(jnp.float32))
        terminated, truncated = terminated & ~state.over, truncated & ~terminated & ~state.over
        return Pending(now, terminated | truncated), Step(obs, reward, terminated, truncated, obs, ~state.over)

    steps = None if env.max_steps is None else env.max_steps + 1
    return VectorEnv(reset, step, env.observation_space, env.action_space, num_envs, steps)


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


MATCHES = {False: ((2, 0, 3), (0, 1, 1)), True: ((1, 0, 1), (0, 0, 1))}  # matching_parts: the best action at +1, -1


def matching_parts(binary: bool = False) -> Env:
    """P12. Observation +1 or -1 by a coin, one step; the reward is the share of an action's three parts that are right.

    MultiDiscrete([3, 2, 4]): (2, 0, 3) at +1 and (0, 1, 1) at -1. MultiBinary(3): (1, 0, 1) and (0, 0, 1). The best
    policy's value is 1 at both, the uniform one's 13/36 or 1/2. Fails: parts mixed up, a log-probability of one part.
    """
    high, low = MATCHES[binary]

    def reward(obs, action):
        return jnp.mean(action == jnp.where(obs[0] > 0, jnp.array(high), jnp.array(low)), dtype=jnp.float32)

    return _one_step(_sign, reward, MultiBinary(3) if binary else MultiDiscrete((3, 2, 4)))


VALLEY = 0.8  # correlation of the best policy with entropy in `valley`
VALLEY_CENTRE = (0.8, 1.6)  # its best action


def valley() -> Env:
    """One constant observation, one step, Box[(-2, -1), (5, 3)]: a quadratic peak that is narrow across a diagonal.

    With `u` the action rescaled to [-1, 1], the reward is `-(u - c)^T A (u - c) / 2`, `A = [[1, -0.8], [-0.8, 1]]`. The
    best action is (0.8, 1.6), worth 0. With an entropy bonus `beta` the best policy is normal in `u`, with covariance
    `beta A^-1`, whose correlation is 0.8. Fails: a covariance that is a diagonal in disguise.
    """
    low, high = np.array([-2.0, -1.0]), np.array([5.0, 3.0])

    def reward(obs, action):
        x, y = 2.0 * (action - np.array(VALLEY_CENTRE)) / (high - low)
        return -0.5 * (x**2 + y**2 - 2.0 * VALLEY * x * y)

    return _one_step(lambda key: _fixed(0.0), reward, Box(low, high, (2,)))


POSITIVE = 2.0  # the best action of `positive_action`


def positive_action() -> Env:
    """One constant observation, one step, Box[0.5, inf): reward `-min((a - 2)^2, 4)`; the best action is 2, worth 0."""
    reward = lambda obs, a: -jnp.minimum((a[0] - POSITIVE) ** 2, 4.0)  # noqa: E731
    return _one_step(lambda key: _fixed(0.0), reward, Box(0.5, jnp.inf, (1,)))


def forbidden_action() -> Env:
    """Masks. Two steps: observation 0, where every action is valid and pays nothing, then +1 or -1 by a coin.

    At +1 actions 0, 1, 2 pay -3, -2, -1. At -1 action 2 is forbidden: taking it pays NaN, which poisons the session for
    good; 0 and 1 pay -3 and -2. At the end nothing is valid. V(+1) = -1, V(-1) = -2, V(0) = -1.5 gamma; a learner whose
    target takes its maximum over forbidden actions too finds another V(0).
    """
    space = Dict({"x": _OBS, "action_mask": MultiBinary(3)})

    def see(x, over):
        return {"x": x[None], "action_mask": jnp.array([1, 1, 0]) * ~over + jnp.array([0, 0, 1]) * (x >= 0) * ~over}

    def reset(key):
        return jnp.float32(0.0), see(jnp.float32(0.0), jnp.array(False))

    def step(key, x, action):
        over = x != 0
        paid = jnp.where(x > 0, jnp.array([-3.0, -2.0, -1.0]), jnp.array([-3.0, -2.0, jnp.nan]))[action]
        after = jnp.where(over, x, _sign(key)[0])
        return after, see(after, over), jnp.where(over, paid, 0.0), over, jnp.array(False)

    return Env(reset, step, space, Discrete(3), max_steps=2)


def box_in(env: Env) -> Env:
    """A probe with an action in Box[-2, 5] that it never sees, for those who act in nothing else."""
    return env._replace(action_space=_ACTION, step=lambda key, state, action: env.step(key, state, jnp.int32(0)))


def boxed(probe: str, **kwargs) -> Env:
    """A probe of this file in a box (`box_in`)."""
    return box_in(globals()[probe](**kwargs))


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


def lottery(probability: float = 0.1) -> Env:
    """One constant observation, one step, reward 1 with `probability`, else 0. V = probability. Fails: importance
    weights: batches that prefer large errors, p ~ |r - V|, find V = 0.25 for 0.1.
    """

    def step(key, obs, action):
        reward = jax.random.bernoulli(key, probability).astype(jnp.float32)
        return obs, obs, reward, jnp.array(True), jnp.array(False)

    return Env(lambda key: (_fixed(0.0), _fixed(0.0)), step, _OBS, Discrete(1), max_steps=1)


def previous_sign(steps: int = 8) -> Env:
    """Each observation is +1 or -1 by a coin; +1 for action 1 where the one *before* it was +1 and for action 0 where
    it was -1, else -1; the first step pays nothing. Truncated after `steps`. Needs two frames at once: the best policy
    earns `steps - 1`, one that sees a single frame 0. Fails: frame stacks, in acting or in learning.
    """

    def reset(key):
        obs = _sign(key)
        return (jnp.int32(0), obs, jnp.zeros((1,))), obs

    def step(key, state, action):
        taken, obs, before = state
        reward = before[0] * (2.0 * action - 1.0)
        after = _sign(key)
        return (taken + 1, after, obs), after, reward, jnp.array(False), taken + 1 >= steps

    return Env(reset, step, _OBS, Discrete(2), max_steps=steps)


def random_walk(right: float = 0.5) -> Env:
    """P10. Five states in a row; whatever is done, a step to the right with probability `right`, else to the left. It
    begins in the middle and ends beyond either end, which pays 1 on the right and 0 on the left. At gamma 1 the value
    of a state is the chance to end on the right, `WALK` for 1/2 (Sutton & Barto 2018, example 6.2).
    """

    def reset(key):
        return jnp.int32(2), jnp.int32(2)

    def step(key, state, action):
        after = state + jnp.where(jax.random.bernoulli(key, right), 1, -1)
        seen = jnp.clip(after, 0, 4)
        return after, seen, (after == 5).astype(jnp.float32), after != seen, jnp.array(False)

    return Env(reset, step, Discrete(5), Discrete(1))


WALK = tuple((state + 1) / 6 for state in range(5))


def cue_then_answer(delay: int = 1) -> Env:
    """P13. The first observation is a cue, +1 or -1 by a coin, then 0, and `delay` steps after the cue 0.5 asks for an
    answer: action 1 for a cue of +1, action 0 for -1, pays 1, the other one 0, and all is over. Needs a memory: who
    sees nothing but the question is right half of the time.
    """

    def see(time, cue):
        return jnp.where(time == 0, cue, jnp.where(time == delay, 0.5, 0.0))

    def reset(key):
        state = jnp.int32(0), _sign(key)
        return state, see(*state)

    def step(key, state, action):
        time, cue = state
        asked = time == delay
        right = action == (cue[0] > 0)
        after = time + 1, cue
        return after, see(*after), (asked & right).astype(jnp.float32), asked, jnp.array(False)

    return Env(reset, step, _OBS, Discrete(2), max_steps=delay + 1)


def picture(continuous: bool = False) -> Env:
    """P14. An image of 10 x 10 pixels and 4 channels, one step. Each channel shows a square of 2 x 2 pixels somewhere;
    that of channel 0 or that of channel 3 is missing, by a coin. The best action tells which: 0 or 1, which pays 1 and
    -1 if wrong, or 0.3 or 2.7 in Box[-2, 5], less the squared distance from it. Fails: convolutions, layouts.
    """

    def draw(key):
        coin_key, *keys = jax.random.split(key, 5)
        coin = jax.random.bernoulli(coin_key)
        corners = jnp.stack([jax.random.randint(k, (2,), 0, 9) for k in keys])
        grid = jnp.stack(jnp.meshgrid(jnp.arange(10), jnp.arange(10), indexing="ij"), -1)
        off = grid[:, :, None] - corners
        squares = ((off >= 0) & (off <= 1)).all(-1) & jnp.array([~coin, True, True, coin])
        return coin, squares.astype(jnp.uint8) * 255

    def step(key, coin, action):
        if continuous:
            reward = -((action[0] - jnp.where(coin, CENTRES[0], CENTRES[1])) ** 2)
        else:
            reward = jnp.where(action == coin, 1.0, -1.0)
        return *draw(key), reward, jnp.array(True), jnp.array(False)

    space = Box(0, 255, (10, 10, 4), jnp.uint8)
    return Env(draw, step, space, _ACTION if continuous else Discrete(2), max_steps=1)


def coin_at_the_end() -> Env:
    """P15. Two steps, observations 0 then 1; the second one pays +1 or -1 by a coin and ends.

    The return is +1 or -1 from observation 1 and +gamma or -gamma from observation 0, each with probability 1/2. Its
    mean is 0 everywhere: only what predicts a distribution can tell.
    """

    def reset(key):
        return jnp.int32(0), _fixed(0.0)

    def step(key, steps, action):
        steps = steps + 1
        done = steps >= 2
        return steps, _fixed(1.0), jnp.where(done, _sign(key)[0], 0.0), done, jnp.array(False)

    return Env(reset, step, _OBS, Discrete(1), max_steps=2)


FALL = -3.0


def cliff_edge() -> Env:
    """Observation -1: action 0 ends with 0.5, action 1 pays nothing and leads to the edge, observation +1. There,
    action 1 ends with 1 and action 0, a fall, with -3.

    An epsilon-greedy policy falls with probability epsilon / 2. So SARSA finds Q(-1, 1) = gamma (1 - 2 epsilon), 0.18
    at epsilon 0.4 and gamma 0.9, and plays 0 at -1; Q-learning finds gamma and plays 1.
    """

    def reset(key):
        return jnp.array(False), _fixed(-1.0)

    def step(key, at_edge, action):
        end = jnp.where(action == 1, 1.0, FALL)
        reward = jnp.where(at_edge, end, jnp.where(action == 1, 0.0, 0.5))
        return jnp.array(True), _fixed(1.0), reward, at_edge | (action == 0), jnp.array(False)

    return Env(reset, step, _OBS, Discrete(2), max_steps=2)


def two_habits(steps: int = 4) -> Env:
    """The first observation is -1, where action 0 pays 1 and action 1 costs 1; then it is +1, where it is the other way
    round. Never terminates, truncated after `steps`.

    Under an epsilon-greedy policy V(+1) = (1 - epsilon) / (1 - gamma), 8 at epsilon 0.2 and gamma 0.9, and the better
    action is worth 1 + gamma V(+1) = 8.2. Who takes the first action of the next episode for the one after a truncated
    step finds far less.
    """

    def reset(key):
        return jnp.int32(0), _fixed(-1.0)

    def step(key, taken, action):
        good = jnp.where(taken == 0, action == 0, action == 1)
        return taken + 1, _fixed(1.0), jnp.where(good, 1.0, -1.0), jnp.array(False), taken + 1 >= steps

    return Env(reset, step, _OBS, Discrete(2), max_steps=steps)
