"""Actor-critics that learn from the newest rollout: PPO, A2C and variants.

    act for `T` steps, keeping the raw draw and its log-probability (and the value, where networks share layers)
    advantages by GAE, bootstrapped from the true successors
    descend a loss, once on the whole rollout or in shuffled minibatches

Members of the family differ in their loss, `(policy, value, batch, hp) -> (loss, logs)`, and in whether they learn in
minibatches.

Observation statistics are those of the time of acting while a rollout is learned from (so a probability ratio begins
at exactly 1) and take in the rollout afterwards. Rewards are divided by the running deviation of the discounted return,
this rollout's included (Engstrom et al. 2020, "reward scaling"); reported returns stay raw.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.learners import minibatches
from slmjax.learners.descent import Learned, Logs, descent
from slmjax.learners.preprocess import network_space, preprocess_rollouts
from slmjax.maths import moments
from slmjax.maths.losses import standardize, weighted_mean
from slmjax.maths.returns import discounts, gae
from slmjax.nets.actor_critic import ActorCritic, actor_critic_optimizer, build_actor_critic
from slmjax.policies.heads import action_head
from slmjax.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Array, Box, Key, PyTree, Rollout, Space, SpecError, VectorEnv


@hyper
class OnPolicyKeys:
    """Keys of `agent.algorithm` that the whole family has."""

    action_pdtype: str = key(default="default", doc="distribution over actions")
    action_policy: str = key(default="default", doc="how it is explored: sampled from the policy", choices=("default",))
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    entropy_coef_spec: float | Schedule = key(default=0.01, doc="weight of the entropy bonus", low=0)
    val_loss_coef: float = key(default=0.5, doc="weight of the value loss", low=0)
    normalize_obs: bool = key(default=False, doc="standardise observations by running statistics")
    normalize_return: bool = key(default=False, doc="divide rewards by the running deviation of the discounted return")


class PolicyState(NamedTuple):
    """What acting reads.

    Attributes:
        params: of the networks.
        obs_moments: `Moments` of the observations; `()` where they are not normalised.
    """

    params: PyTree
    obs_moments: Any


class OnPolicyLearner(NamedTuple):
    """What learning needs besides.

    Attributes:
        opt_state: of the optimiser.
        return_moments: `Moments` of the discounted return; `()` where rewards are not scaled.
        running_return: `[E]`, the discounted return of the episode under way; `()` likewise.
    """

    opt_state: PyTree
    return_moments: Any
    running_return: Any


class Extras(NamedTuple):
    """What acting leaves for learning, `[T, E, ...]`."""

    raw: Array  # the draw before clipping or squashing
    log_prob: Array
    value: Array


class Sample(NamedTuple):
    """Transitions as a loss needs them, `[T, E, ...]`, or a minibatch of them; `target` is that of the value."""

    obs: PyTree
    raw: Array
    log_prob: Array
    value: Array
    advantage: Array
    target: Array
    weight: Array
    resets: Array


# `(policy, value [...], batch, hp) -> (loss, logs)`: `policy` is a distribution over the actions of the batch.
Loss = Callable[[Any, Array, Sample, HP], tuple[Array, Logs]]


class OnPolicy(NamedTuple):
    """The parts of an agent of this family.

    Attributes:
        net: the networks.
        raw: the space of raw draws.
        init: as `Agent.init`.
        act: as `Agent.act`; its extras are `Extras`.
        normalize: `(policy state, obs) -> obs` as the networks get them.
        sample: `(policy state, learner, rollout, hp) -> (Sample [T, E, ...], learner)`, with advantages by GAE; the
            learner has the rollout's returns in its statistics.
    """

    net: ActorCritic
    raw: Space
    init: Callable[[Key, HP], AgentState]
    act: Callable[..., tuple[PyTree, PyTree, Extras]]
    normalize: Callable[[PolicyState, PyTree], PyTree]
    sample: Callable[[PolicyState, OnPolicyLearner, Rollout, HP], tuple[Sample, OnPolicyLearner]]


def make(hp: HP, env: VectorEnv, *, loss: Loss, minibatched: bool = False) -> Agent:
    """An agent that descends `loss`: `minibatched` several times over, or once on each rollout.

    Raises:
        SpecError: a gradient step on one transition whose advantage is to be standardised; see also `build` and
            `minibatches.plan`.
    """
    parts = build(hp, env)
    plan = minibatches.plan(hp, env, parts.net.recurrent) if minibatched else minibatches.whole(hp, env)
    if hp.algorithm.normalize_advantages and plan.length * plan.batch == 1:
        raise SpecError(
            "expected at least 2 transitions a gradient step with normalize_advantages (the standardised advantage of "
            "one is always 0), got 1.",
            f"agent.algorithm.{'minibatch_size' if minibatched else 'training_frequency'}",
        )

    def total(params: PyTree, batch: Sample, carry: PyTree, hp: HP) -> tuple[Array, Logs]:
        policy, value, _ = parts.net.unroll(params, batch.obs, carry, batch.resets)
        if hp.algorithm.normalize_advantages:
            batch = batch._replace(advantage=standardize(batch.advantage, batch.weight))
        return loss(policy, value, batch, hp)

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, Logs]:
        batch, learner = parts.sample(state.policy, state.learner, rollout, hp)
        step = descent(partial(total, hp=hp), actor_critic_optimizer(hp.net))
        learned = Learned(state.policy.params, learner.opt_state)
        learned, logs = minibatches.learn(plan, step, learned, batch, rollout.carry, rng)
        seen = state.policy.obs_moments
        if hp.algorithm.normalize_obs:
            flat = rollout.obs.reshape(-1, *rollout.obs.shape[2:])
            seen = moments.update(seen, flat, rollout.weight.reshape(-1))
        return AgentState(PolicyState(learned.params, seen), learner._replace(opt_state=learned.opt_state)), logs

    agent = Agent(
        init=parts.init,
        act=parts.act,
        update=update,
        horizon=plan.horizon,
        opt_steps=plan.gradient_steps,
        carry=parts.net.carry,
    )
    return preprocess_rollouts(agent, hp, env)


def build(hp: HP, env: VectorEnv, *, recurrent: bool = True) -> OnPolicy:
    """The parts for an algorithm with the keys `action_pdtype, gamma, lam, normalize_obs, normalize_return`.

    `recurrent` says whether it learns from sequences, as a network with a carry needs.

    Raises:
        SpecError: a distribution that does not fit, or observations that cannot be normalised.
    """
    alg: Any = hp.algorithm
    space: Any = network_space(hp, env)
    if alg.normalize_obs and not (isinstance(space, Box) and space.dtype == jnp.float32):
        raise SpecError(f"expected float observations, got {space}.", "agent.algorithm.normalize_obs")
    head = action_head(alg.action_pdtype, env.action_space)
    net = build_actor_critic(hp.net, space, head, env.action_space, critic=True, recurrent=recurrent)

    def normalize(policy: PolicyState, obs: PyTree) -> PyTree:
        return moments.normalize(policy.obs_moments, obs) if alg.normalize_obs else obs

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        seen = moments.init(jnp.zeros(space.shape)) if alg.normalize_obs else ()
        returns = moments.init(jnp.zeros(())) if alg.normalize_return else ()
        running = jnp.zeros((env.num_envs,)) if alg.normalize_return else ()
        opt_state = actor_critic_optimizer(hp.net).init(params)
        return AgentState(PolicyState(params, seen), OnPolicyLearner(opt_state, returns, running))

    def act(
        policy: PolicyState, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool
    ) -> tuple[PyTree, PyTree, Extras]:
        pi, value, carry = net.step(policy.params, normalize(policy, obs), carry)
        raw = pi.mode() if greedy else pi.sample(rng)
        return pi.action(raw), carry, Extras(raw, pi.log_prob(raw), value)

    def sample(
        policy: PolicyState, learner: OnPolicyLearner, rollout: Rollout, hp: HP
    ) -> tuple[Sample, OnPolicyLearner]:
        reward = rollout.reward
        if alg.normalize_return:
            learner = _with_rewards(learner, rollout, hp.algorithm.gamma)
            reward = moments.scale(learner.return_moments, reward)
        raw, log_prob, value = rollout.extras
        obs, final_obs = normalize(policy, rollout.obs), normalize(policy, rollout.final_obs)
        v_tm1, v_t = net.values(policy.params, obs, final_obs, rollout.carry, rollout.resets)
        # The value of a shared network came with the action. A critic of its own is read only here, at all steps at
        # once, so XLA leaves a feed-forward one out of acting.
        value = value if hp.net.shared else v_tm1
        discount_t = discounts(rollout.terminated, hp.algorithm.gamma)
        advantage = gae(reward, discount_t, value, v_t, rollout.ended, hp.algorithm.lam)
        target = advantage + value
        return Sample(obs, raw, log_prob, value, advantage, target, rollout.weight, rollout.resets), learner

    return OnPolicy(net, head.raw, init, act, normalize, sample)


def _with_rewards(learner: OnPolicyLearner, rollout: Rollout, gamma: Any) -> OnPolicyLearner:
    """The learner with the discounted returns of a rollout in its statistics."""

    def step(running: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, ended, valid = now
        running = jnp.where(valid, gamma * running + reward, running)
        return jnp.where(ended, 0.0, running), running

    now = (rollout.reward, rollout.ended, rollout.valid)
    running, returns = jax.lax.scan(step, learner.running_return, now)
    seen = moments.update(learner.return_moments, returns.reshape(-1), rollout.weight.reshape(-1))
    return learner._replace(return_moments=seen, running_return=running)


def weigh(policy: Any, policy_loss: Array, value_loss: Array, batch: Sample, hp: HP) -> tuple[Array, Logs]:
    """`policy_loss + val_loss_coef value_loss - entropy_coef entropy`, and each of them.

    Args:
        policy: distributions `[...]`.
        policy_loss: a mean.
        value_loss: of each transition, `[...]`.
        batch: says what each transition weighs.
        hp: names the coefficients.
    """
    value_loss, entropy = weighted_mean(value_loss, batch.weight), weighted_mean(policy.entropy(), batch.weight)
    total = policy_loss + hp.algorithm.val_loss_coef * value_loss - hp.algorithm.entropy_coef_spec * entropy
    return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
