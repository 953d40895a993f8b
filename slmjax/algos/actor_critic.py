"""Advantage actor-critic, A2C: one descent on each rollout (Mnih et al. 2016; Schulman et al. 2016 for GAE).

    act for `training_frequency` steps, keeping the value of each observation
    advantages, bootstrapped from the true successors:
        lam = 1   n-step returns to the end of the rollout, as long as it lets them be
        lam = 0   plain temporal differences
        between   GAE
    descend once on  -mean log pi(a|s) A + val_loss_coef * value loss - entropy_coef * entropy

The critic's target is `A + V`, the lambda-return.
"""

import jax
import jax.numpy as jnp
import optax

from slmjax.algos.losses import PUNISH, standardize, weighted_mean
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
class ActorCriticKeys:
    """`agent.algorithm` of name `ActorCritic`."""

    name: str = key(default="ActorCritic", doc="name of the algorithm")
    action_pdtype: str = key(default="default", doc="distribution over actions")
    action_policy: str = key(default="default", doc="how it is explored: sampled", choices=("default",))
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    lam: float = key(default=1.0, doc="lambda of the advantages: 1 for n-step returns, 0 for plain TD", low=0, high=1)
    entropy_coef_spec: float | Schedule = key(default=0.01, doc="weight of the entropy bonus", low=0)
    val_loss_coef: float = key(default=0.5, doc="weight of the value loss", low=0)
    training_frequency: int = key(default=5, doc="steps of each environment in a rollout, the n of n-step", low=1)
    normalize_advantages: bool = key(default=False, doc="standardise the advantages of each rollout")
    normalize_obs: bool = key(default=False, doc="standardise observations by running statistics")
    normalize_return: bool = key(default=False, doc="divide rewards by the running deviation of the discounted return")


def make(hp: HP, env: VectorEnv) -> Agent:
    """An A2C agent.

    Raises:
        SpecError: rollouts of one transition whose advantages are to be standardised; see also `on_policy`.
    """
    parts, alg = on_policy(hp, env), hp.algorithm
    if alg.training_frequency * env.num_envs == 1 and alg.normalize_advantages:
        raise SpecError(
            "expected at least 2 steps or environments with normalize_advantages (the standardised advantage of one "
            "sample is always 0), got 1.",
            "agent.algorithm.training_frequency",
        )

    def loss(params: PyTree, batch: Sample, carry: PyTree, hp: HP) -> tuple[Array, dict[str, Array]]:
        policy, value, _ = parts.net.unroll(params, batch.obs, carry, batch.ended)
        advantage = standardize(batch.advantage, batch.weight) if alg.normalize_advantages else batch.advantage
        policy_loss = -weighted_mean(policy.log_prob(batch.raw) * advantage, batch.weight)
        value_loss = weighted_mean(PUNISH[hp.net.loss_spec.name](value - batch.target), batch.weight)
        entropy = weighted_mean(policy.entropy(), batch.weight)
        total = policy_loss + hp.algorithm.val_loss_coef * value_loss - hp.algorithm.entropy_coef_spec * entropy
        return total, {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        del rng
        learner = parts.see_rewards(state.learner, rollout, hp)
        samples = parts.samples(state.policy, learner, rollout, hp)
        (_, logs), gradient = jax.value_and_grad(loss, has_aux=True)(state.policy.params, samples, rollout.carry, hp)
        params, opt_state = descend(actor_critic_optimizer(hp.net), gradient, learner.opt_state, state.policy.params)
        policy = Policy(params, parts.see_observations(state.policy.obs_moments, rollout))
        logs |= {"grad_norm": optax.tree.norm(gradient), "lr": jnp.asarray(hp.net.optim_spec.lr)}
        logs |= {"entropy_coef": hp.algorithm.entropy_coef_spec}
        return AgentState(policy, learner._replace(opt_state=opt_state)), logs

    horizon, carry = alg.training_frequency, parts.net.carry
    agent = Agent(parts.init, parts.act, update, horizon=horizon, opt_steps=1, carry=carry)
    return watch_rollouts(agent, hp, env)


ACTOR_CRITIC = Algorithm(ActorCriticKeys, make, EVERY_ACTION, ("OnPolicyBatchReplay",), TARGET_KEYS)
