"""Proximal policy optimisation (Schulman et al. 2017), in every action space.

    act for `time_horizon` steps, keeping the log-probability and the value of each
    advantages by GAE, bootstrapped from the true successors
    `training_epoch` times, over shuffled minibatches: descend
        clipped surrogate + val_loss_coef * value loss - entropy_coef * entropy

Acting, normalisers and advantages are those of `on_policy.py`.
"""

import jax
import jax.numpy as jnp
import optax

from slmjax.algos import minibatches
from slmjax.algos.losses import PUNISH, clipped_surrogate, clipped_value, standardize, weighted_mean
from slmjax.algos.on_policy import Policy, Sample, on_policy
from slmjax.algos.watch import watch_rollouts
from slmjax.nets.actor_critic import actor_critic_optimizer
from slmjax.nets.keys import TARGET_KEYS
from slmjax.nets.optim import descend
from slmjax.policies.heads import EVERY_ACTION
from slmjax.policies.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Key, PyTree, Rollout, SpecError, VectorEnv


@hyper
class PPOKeys:
    """`agent.algorithm` of name `PPO`."""

    name: str = key(default="PPO", doc="name of the algorithm")
    action_pdtype: str = key(default="default", doc="distribution over actions")
    action_policy: str = key(default="default", doc="how it is explored: sampled", choices=("default",))
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    lam: float = key(default=0.95, doc="lambda of generalised advantage estimation", low=0, high=1)
    clip_eps_spec: float | Schedule = key(default=0.2, doc="how far the probability ratio may move", low=0)
    entropy_coef_spec: float | Schedule = key(default=0.01, doc="weight of the entropy bonus", low=0)
    val_loss_coef: float = key(default=0.5, doc="weight of the value loss", low=0)
    time_horizon: int = key(default=128, doc="steps of each environment in a rollout", low=1)
    minibatch_size: int = key(default=128, doc="transitions of one gradient step", low=1)
    training_epoch: int = key(default=4, doc="passes over a rollout", low=1)
    clip_vloss: bool = key(default=False, doc="clip the value loss as the surrogate is")
    normalize_advantages: bool = key(default=True, doc="standardise the advantages of each minibatch")
    normalize_obs: bool = key(default=False, doc="standardise observations by running statistics")
    normalize_return: bool = key(default=False, doc="divide rewards by the running deviation of the discounted return")


def make(hp: HP, env: VectorEnv) -> Agent:
    """A PPO agent.

    Raises:
        SpecError: minibatches of one whose advantages are to be standardised; see also `on_policy` and
            `minibatches.plan`.
    """
    alg, parts = hp.algorithm, on_policy(hp, env)
    cut = minibatches.plan(hp, env, bool(jax.tree.leaves(parts.net.carry(1))))
    if alg.minibatch_size == 1 and alg.normalize_advantages:
        raise SpecError(
            "expected at least 2 with normalize_advantages (the standardised advantage of one sample is always 0), "
            "got 1.",
            "agent.algorithm.minibatch_size",
        )

    def loss(params: PyTree, batch: Sample, carry: PyTree, hp: HP) -> tuple[Array, dict[str, Array]]:
        policy, value, _ = parts.net.unroll(params, batch.obs, carry, batch.ended)
        advantage = standardize(batch.advantage, batch.weight) if alg.normalize_advantages else batch.advantage
        log_ratio = policy.log_prob(batch.raw) - batch.log_prob
        # A ratio that overflows would have no gradient: 0 of the branch that is not chosen, times infinity.
        log_ratio = jnp.clip(log_ratio, -20.0, 20.0)
        clip, punish = hp.algorithm.clip_eps_spec, PUNISH[hp.net.loss_spec.name]
        mean = lambda x: weighted_mean(x, batch.weight)  # noqa: E731
        policy_loss = mean(clipped_surrogate(log_ratio, advantage, clip))
        if alg.clip_vloss:
            value_loss = mean(clipped_value(value, batch.value, batch.target, clip, punish))
        else:
            value_loss = mean(punish(value - batch.target))
        entropy = mean(policy.entropy())
        total = policy_loss + hp.algorithm.val_loss_coef * value_loss - hp.algorithm.entropy_coef_spec * entropy
        # (rho - 1) - log rho estimates the KL divergence without bias and is never negative (Schulman 2020).
        logs = {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        logs |= {"approx_kl": mean(jnp.expm1(log_ratio) - log_ratio)}
        logs |= {"clip_fraction": mean((jnp.abs(jnp.expm1(log_ratio)) > clip).astype(jnp.float32))}
        return total, logs

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        learner = parts.see_rewards(state.learner, rollout, hp)
        samples = parts.samples(state.policy, learner, rollout, hp)
        pieces = minibatches.pieces(cut, samples)

        def learn(carry: tuple[PyTree, PyTree], index: Array) -> tuple[tuple[PyTree, PyTree], dict[str, Array]]:
            params, opt_state = carry
            batch, start = minibatches.take(index, pieces, rollout.carry)
            (_, logs), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, start, hp)
            logs |= {"grad_norm": optax.tree.norm(gradient)}
            return descend(actor_critic_optimizer(hp.net), gradient, opt_state, params), logs

        first = (state.policy.params, learner.opt_state)
        (params, opt_state), logs = jax.lax.scan(learn, first, minibatches.orders(cut, rng))
        metrics = jax.tree.map(jnp.mean, logs)
        metrics |= {"lr": hp.net.optim_spec.lr, "clip_eps": hp.algorithm.clip_eps_spec}
        metrics |= {"entropy_coef": hp.algorithm.entropy_coef_spec}
        policy = Policy(params, parts.see_observations(state.policy.obs_moments, rollout))
        return AgentState(policy, learner._replace(opt_state=opt_state)), metrics

    carry, steps = parts.net.carry, cut.gradient_steps
    agent = Agent(parts.init, parts.act, update, horizon=alg.time_horizon, opt_steps=steps, carry=carry)
    return watch_rollouts(agent, hp, env)


PPO = Algorithm(PPOKeys, make, EVERY_ACTION, ("OnPolicyBatchReplay",), TARGET_KEYS)
