"""An agent that plays: greedy episodes in environments of their own, with learning and exploration off."""

import jax
import jax.numpy as jnp

from slmjax import schedules
from slmjax.types import HP, Agent, Array, Key, PyTree, VectorEnv

LIMIT = 10_000  # steps after which an evaluation gives up on environments that bound no episode

_EVALUATE = 2  # what a session's key is folded with for it; 0 and 1 are those of `session`


def evaluation_key(key: Key, frame: Array | int) -> Key:
    """What the evaluation at `frame` of the session with this root key plays by."""
    return jax.random.fold_in(jax.random.fold_in(key, _EVALUATE), frame)


def play(agent: Agent, env: VectorEnv, policy: PyTree, hp: HP, frame: Array, key: Key) -> Array:
    """Returns of one greedy episode in each environment, `[E]`; the loop is as long as the longest of them.

    `policy` is that of an `AgentState`, `hp` holds schedules as a spec does, for `frame`.
    """
    now = schedules.at(hp, frame)
    reset_key, step_key = jax.random.split(key)
    env_state, obs = env.reset(reset_key)
    limit = env.max_steps or LIMIT
    fresh = agent.carry(env.num_envs)

    def unfinished(at: tuple) -> Array:
        return (at[0] < limit) & jnp.any(at[-1])

    def step(at: tuple) -> tuple:
        t, env_state, obs, carry, total, going = at
        act_key, env_key = jax.random.split(jax.random.fold_in(step_key, t))
        action, carry, _ = agent.act(policy, obs, carry, act_key, now, True)
        env_state, out = env.step(env_key, env_state, action)
        total = total + jnp.where(going & out.valid, out.reward, 0.0)
        return t + 1, env_state, out.obs, carry, total, going & ~out.ended

    zero = jnp.zeros((), jnp.int32)
    start = (zero, env_state, obs, fresh, jnp.zeros(env.num_envs), jnp.ones(env.num_envs, bool))
    return jax.lax.while_loop(unfinished, step, start)[4]
