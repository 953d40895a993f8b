"""Uniform random actions, valid ones where the environment says which: what every strength is measured against."""

import jax
import jax.numpy as jnp

from slmjax.policies.heads import EVERY_ACTION, action_head
from slmjax.policies.masks import masking, offered
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Key, PyTree, Rollout, VectorEnv


@hyper
class RandomKeys:
    """`agent.algorithm` of name `Random`."""

    name: str = key(default="Random", doc="name of the algorithm")
    training_frequency: int = key(default=32, doc="steps of each environment between two rows' bookkeeping", low=1)


def make(hp: HP, env: VectorEnv) -> Agent:
    """An agent that samples its action space and learns nothing.

    Raises:
        SpecError: a mask of valid actions does not fit.
    """
    head = action_head("default", env.action_space)
    mask = masking(env.observation_space, head.choices)

    def init(rng: Key, hp: HP) -> AgentState:
        del rng, hp
        return AgentState(())

    def act(policy: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        del policy, hp, greedy
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        if offered(env.observation_space):
            logits = mask(jnp.zeros((num_envs, head.width)), obs)
            return head.distribution(logits, None).sample(rng), carry, ()
        return jax.vmap(env.action_space.sample)(jax.random.split(rng, num_envs)), carry, ()

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        del rollout, rng, hp
        return state, {}

    return Agent(init, act, update, horizon=hp.algorithm.training_frequency)


RANDOM = Algorithm(RandomKeys, make, EVERY_ACTION, ())
