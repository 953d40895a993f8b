"""Action values learned from the newest rollout, without a memory and without a target network: SARSA, PQN.

    act for `T` steps: epsilon-greedy on Q(s, .)
    targets from Q at the true successors, by the parameters that acted
    descend  loss( target - Q(s, a) ),  once on the whole rollout or in shuffled minibatches

Members of the family differ in their targets, and in whether they learn in minibatches. The targets stay fixed while a
rollout is learned from: they are no function of the parameters (a semi-gradient).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from slmjax.learners import minibatches
from slmjax.learners.action_values import act_by_values
from slmjax.learners.descent import Learned, Logs, begin, descent
from slmjax.learners.preprocess import network_space, preprocess_rollouts
from slmjax.learners.value_heads import EXPECTED
from slmjax.maths.losses import ELEMENTWISE, td_error, weighted_mean
from slmjax.nets.action_values import build_action_values
from slmjax.nets.optim import net_optimizer
from slmjax.policies.masks import masking
from slmjax.types import HP, Agent, AgentState, Array, Key, PyTree, Rollout, VectorEnv

# `(q_t [T, E, A], rollout, key, hp) -> [T, E]`: what Q(s, a) should have been, by the values at `rollout.final_obs`,
# minus infinity for forbidden actions.
Targets = Callable[[Array, Rollout, Key, HP], Array]


class QSample(NamedTuple):
    """Transitions as the loss needs them, `[T, E, ...]`, or pieces of them."""

    obs: PyTree
    action: Array
    target: Array
    weight: Array
    resets: Array


def make(hp: HP, env: VectorEnv, *, targets: Targets, minibatched: bool = False) -> Agent:
    """An agent that regresses on `targets`: `minibatched` several times over, or once on each rollout.

    Raises:
        SpecError: see `minibatches.plan`, `nets.network.build` and `policies.masks.masking`.
    """
    space, actions = network_space(hp, env), env.action_space.n
    net, mask = build_action_values(hp.net, space, actions), masking(space, (actions,))
    plan = minibatches.plan(hp, env, net.recurrent) if minibatched else minibatches.whole(hp, env)

    def init(rng: Key, hp: HP) -> AgentState:
        return AgentState(*begin(net.init(rng, hp.net), net_optimizer(hp.net)))

    def sample(params: PyTree, rollout: Rollout, rng: Key, hp: HP) -> QSample:
        _, there = net.transitions(params, rollout.obs, rollout.final_obs, rollout.carry, rollout.resets)
        target = targets(mask(there[..., 0], rollout.final_obs), rollout, rng, hp)
        return QSample(rollout.obs, rollout.action, target, rollout.weight, rollout.resets)

    def loss(params: PyTree, batch: QSample, carry: PyTree, hp: HP) -> tuple[Array, Logs]:
        q_tm1 = net.unroll(params, batch.obs, carry, batch.resets)[..., 0]
        losses = ELEMENTWISE[hp.net.loss_spec.name](td_error(q_tm1, batch.action, batch.target))
        best = jnp.max(mask(q_tm1, batch.obs), -1)
        return weighted_mean(losses, batch.weight), {"q_value": weighted_mean(best, batch.weight)}

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, Logs]:
        batch = sample(state.policy, rollout, rng, hp)
        step = descent(partial(loss, hp=hp), net_optimizer(hp.net))
        learned = Learned(state.policy, state.learner)
        learned, logs = minibatches.learn(plan, step, learned, batch, rollout.carry, rng)
        return AgentState(*learned), logs

    agent = Agent(
        init=init,
        act=act_by_values(net, mask, EXPECTED.q),
        update=update,
        horizon=plan.horizon,
        opt_steps=plan.gradient_steps,
        carry=net.carry,
    )
    return preprocess_rollouts(agent, hp, env)
