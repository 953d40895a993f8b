"""What an agent learns to see: frames joined and signs of rewards, as `agent.memory` says, for every algorithm.

These take an agent and return one, so no algorithm handles frames itself. Each is made for what its networks see
(`network_space`); its carry becomes the pair (frames before the newest, its own carry).
"""

from typing import Any

from slmjax.memory.frame_stack import frame_stack, stack_rollout
from slmjax.memory.keys import learned_reward
from slmjax.types import HP, Agent, AgentState, Array, Key, PyTree, Rollout, Space, VectorEnv


def network_space(hp: HP, env: VectorEnv) -> Space:
    """The space of what the agent's networks see."""
    space: Space = frame_stack(hp.memory, env.observation_space).space
    return space


def stack_frames(agent: Agent, hp: HP, env: VectorEnv) -> Agent:
    """The agent with its frames joined as it acts; the ring that it learns from joins them by itself."""
    stack = frame_stack(hp.memory, env.observation_space)
    if stack.length == 1:
        return agent

    def act(policy: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[PyTree, PyTree, Any]:
        frames, own = carry
        x, frames = stack.push(obs, frames)
        action, own, extras = agent.act(policy, x, own, rng, hp, greedy)
        return action, (frames, own), extras

    return agent._replace(act=act, carry=lambda num_envs: (stack.carry(num_envs), agent.carry(num_envs)))


def preprocess_rollouts(agent: Agent, hp: HP, env: VectorEnv) -> Agent:
    """As `stack_frames`, for an agent that learns from rollouts: theirs are preprocessed as well."""

    def update(state: AgentState, rollout: Rollout, rng: Key, now: HP) -> tuple[AgentState, dict[str, Array]]:
        return agent.update(state, preprocess_rollout(rollout, hp, env), rng, now)

    return stack_frames(agent._replace(update=update), hp, env)


def preprocess_rollout(rollout: Rollout, hp: HP, env: VectorEnv) -> Rollout:
    """A rollout as an agent learns from it: what its networks saw, the rewards that it learns from, its own carry."""
    stack = frame_stack(hp.memory, env.observation_space)
    rollout = rollout._replace(reward=learned_reward(hp.memory, rollout))
    if stack.length == 1:
        return rollout
    frames, own = rollout.carry
    obs, final_obs = stack_rollout(stack, rollout, frames)
    return rollout._replace(obs=obs, final_obs=final_obs, carry=own)
