"""What an agent is shown: frames joined, pixels scaled, signs of rewards (`memory/view.py`), whatever the algorithm.

These take an agent and return one, so no algorithm handles frames itself. Each is made for what it is shown
(`View.space`); its carry becomes the pair (frames before the newest, its own carry).
"""

from typing import Any

from slmjax.memory.view import learned_reward, make_view, stack_rollout
from slmjax.types import HP, Agent, AgentState, Array, Key, PyTree, Rollout, VectorEnv


def shown(hp: HP, env: VectorEnv) -> VectorEnv:
    """The environments as an agent sees them: their observation space is what its networks get."""
    return env._replace(observation_space=make_view(hp.memory, env.observation_space).space)


def watch(agent: Agent, hp: HP, env: VectorEnv) -> Agent:
    """The agent, which is shown observations as it acts; the ring that it learns from shows them by itself."""
    view = make_view(hp.memory, env.observation_space)
    if view.plain:
        return agent

    def act(policy: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[PyTree, PyTree, Any]:
        frames, own = carry
        x, frames = view.see(obs, frames)
        action, own, extras = agent.act(policy, x, own, rng, hp, greedy)
        return action, (frames, own), extras

    return agent._replace(act=act, carry=lambda num_envs: (view.carry(num_envs), agent.carry(num_envs)))


def watch_rollouts(agent: Agent, hp: HP, env: VectorEnv) -> Agent:
    """As `watch`, for an agent that learns from rollouts: they hold what was shown, and the rewards to learn from."""

    def update(state: AgentState, rollout: Rollout, rng: Key, now: HP) -> tuple[AgentState, dict[str, Array]]:
        return agent.update(state, see_rollout(rollout, hp, env), rng, now)

    return watch(agent._replace(update=update), hp, env)


def see_rollout(rollout: Rollout, hp: HP, env: VectorEnv) -> Rollout:
    """A rollout as a watching agent learns from it: what it was shown, and its own carry."""
    view = make_view(hp.memory, env.observation_space)
    rollout = rollout._replace(reward=learned_reward(hp.memory, rollout))
    if view.plain:
        return rollout
    frames, own = rollout.carry
    obs, final_obs = stack_rollout(view, rollout, frames)
    return rollout._replace(obs=obs, final_obs=final_obs, carry=own)
