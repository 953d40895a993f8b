"""Policies learned from whole episodes, without a value function: REINFORCE, the cross-entropy method.

    act for `training_frequency` steps, and append them to a window that holds the episodes under way
    of the episodes that ended in these steps, each from its first step:
        G_t = r_t + gamma r_{t+1} + ...  to the end of the episode, with no bootstrap
    descend once on  -mean log pi(a|s) A - entropy_coef * entropy

Members of the family differ in the advantages A and in the weights of the steps, which they make of the returns.

An update learns from whole episodes, whenever they began. Where a policy moves while a long episode is under way, its
first steps are a few updates old, and no importance weight corrects for that: keep `training_frequency` large enough,
or the learning rate small. An episode that a time limit cut counts as ended: there is no value to bootstrap from.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from slmjax.learners.descent import Learned, Logs, begin, descent
from slmjax.learners.preprocess import network_space, preprocess_rollouts
from slmjax.maths.arrays import where
from slmjax.maths.episodes import Episodes, Window, append, empty, episodes
from slmjax.maths.losses import weighted_mean
from slmjax.nets.actor_critic import build_actor_critic
from slmjax.nets.keys import CRITIC_KEYS, TARGET_KEYS
from slmjax.nets.optim import net_optimizer
from slmjax.policies.heads import action_head
from slmjax.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Array, Key, PyTree, Rollout, SpecError, VectorEnv, zeros

UNREAD = CRITIC_KEYS + TARGET_KEYS


@hyper
class EpisodicKeys:
    """Keys of `agent.algorithm` that the whole family has."""

    action_pdtype: str = key(default="default", doc="distribution over actions")
    action_policy: str = key(default="default", doc="how it is explored: sampled", choices=("default",))
    entropy_coef_spec: float | Schedule = key(default=0.0, doc="weight of the entropy bonus", low=0)
    training_frequency: int = key(default=32, doc="steps of each environment between two updates", low=1)


# `(episodes [H, E], weight [H, E], hp) -> (advantage, weight)`: weights come in as 1 for the steps of episodes that
# ended in the newest rollout, and 0 for all others.
Advantages = Callable[[Episodes, Array, HP], tuple[Array, Array]]


def make(
    hp: HP, env: VectorEnv, *, advantages: Advantages, gamma: Callable[[HP], Any] = lambda hp: hp.algorithm.gamma
) -> Agent:
    """An agent that learns by `advantages` of returns discounted by `gamma(hp)`.

    Raises:
        SpecError: episodes have no bound, or a distribution that does not fit.
    """
    steps, limit = hp.algorithm.training_frequency, env.max_steps
    if limit is None:
        raise SpecError("expected a limit, for this algorithm keeps whole episodes, got none.", "env.max_t")
    head = action_head(hp.algorithm.action_pdtype, env.action_space)
    space = network_space(hp, env)
    net = build_actor_critic(hp.net, space, head, env.action_space, critic=False, recurrent=True)

    def init(rng: Key, hp: HP) -> AgentState:
        # As long as the longest episode that can end in a rollout.
        window = empty(limit + steps, zeros(space, env.num_envs), zeros(head.raw, env.num_envs))
        params, opt_state = begin(net.init(rng, hp.net), net_optimizer(hp.net))
        return AgentState(params, opt_state, window)

    def act(
        params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool
    ) -> tuple[PyTree, PyTree, PyTree]:
        policy, _, carry = net.step(params, obs, carry)
        raw = policy.mode() if greedy else policy.sample(rng)
        return policy.action(raw), carry, raw

    def loss(params: PyTree, window: Window, advantage: Array, weight: Array, hp: HP) -> tuple[Array, Logs]:
        # The window begins with a fresh carry: what episodes begun before it left of theirs is learned from by nobody.
        policy, _, _ = net.unroll(params, window.obs, net.carry(env.num_envs), window.resets)
        entropy = weighted_mean(policy.entropy(), weight)
        surrogate = weighted_mean(policy.log_prob(window.raw) * advantage, weight)
        return -surrogate - hp.algorithm.entropy_coef_spec * entropy, {"entropy": entropy}

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, Logs]:
        del rng
        window = append(state.memory, rollout, rollout.extras)
        found = episodes(window, steps, gamma(hp))
        advantage, weight = advantages(found, (found.done & window.valid).astype(jnp.float32), hp)
        before = Learned(state.policy, state.learner)
        step = descent(partial(loss, hp=hp), net_optimizer(hp.net))
        after, logs = step(before, window, advantage, weight)
        # Where no episode ended there is nothing to learn, and an optimiser's momentum must not act for it.
        learned = where(jnp.sum(weight) > 0, after, before)
        return AgentState(learned.params, learned.opt_state, window), logs

    agent = Agent(init=init, act=act, update=update, horizon=steps, opt_steps=1, carry=net.carry)
    return preprocess_rollouts(agent, hp, env)
