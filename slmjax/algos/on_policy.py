"""What A2C, PPO and their kin share: acting with a value beside, normalisers, and advantages of a rollout.

Observation statistics are those of the time of acting while a rollout is learned from (so a probability ratio begins
at exactly 1) and take in the rollout afterwards. Rewards are divided by the running deviation of the discounted return
(Engstrom et al. 2020, "reward scaling"); reported returns stay raw.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.algos import normalize
from slmjax.algos.returns import discounts, gae
from slmjax.algos.watch import shown
from slmjax.memory.view import boundary
from slmjax.nets.actor_critic import ActorCritic, actor_critic_optimizer, build_actor_critic
from slmjax.policies.distributions import action_head
from slmjax.types import HP, AgentState, Array, Box, Key, PyTree, Rollout, SpecError, VectorEnv


class Policy(NamedTuple):
    """What an agent with a policy and a value acts by."""

    params: PyTree
    obs_moments: Any  # Moments, or () when observations are not normalised


class Learner(NamedTuple):
    """What it knows beside."""

    opt_state: PyTree
    return_moments: Any  # Moments, or () when rewards are not scaled
    running_return: Any  # [E] discounted return of the episode under way, or ()


class Extras(NamedTuple):
    """What acting leaves for learning, `[T, E, ...]`."""

    raw: Array  # the draw before clipping or squashing
    log_prob: Array
    value: Array


class Sample(NamedTuple):
    """Transitions as a loss needs them, `[T, E, ...]`."""

    obs: PyTree
    raw: Array
    log_prob: Array
    value: Array
    advantage: Array
    target: Array
    weight: Array
    ended: Array  # where a carry begins anew after the step


class OnPolicy(NamedTuple):
    """The shared parts.

    Attributes:
        net: the networks.
        raw: the space of raw draws.
        init: as `Agent.init`.
        act: as `Agent.act`; its extras are `Extras`.
        see: `(policy, obs) -> obs` as the networks get them.
        see_rewards: `(learner, rollout, hp) -> learner` with the rewards in its statistics.
        see_observations: `(moments, rollout) -> moments` with the observations in them.
        samples: `(policy, learner, rollout, hp) -> Sample [T, E, ...]`, advantages by GAE.
    """

    net: ActorCritic
    raw: Box
    init: Callable[[Key, HP], AgentState]
    act: Callable[..., tuple[PyTree, PyTree, Extras]]
    see: Callable[[Policy, PyTree], PyTree]
    see_rewards: Callable[[Learner, Rollout, HP], Learner]
    see_observations: Callable[[Any, Rollout], Any]
    samples: Callable[[Policy, Learner, Rollout, HP], Sample]


def on_policy(hp: HP, env: VectorEnv, *, recurrent: bool = True) -> OnPolicy:
    """The shared parts for an algorithm with the keys `action_pdtype, gamma, lam, normalize_obs, normalize_return`.

    `recurrent` says whether it learns from sequences, as a network with a carry needs.

    Raises:
        SpecError: a distribution that does not fit or cannot be learned, or observations that cannot be normalised.
    """
    alg, space = hp.algorithm, shown(hp, env).observation_space
    if alg.normalize_obs and not (isinstance(space, Box) and space.dtype == jnp.float32):
        raise SpecError(f"expected float observations, got {space}.", "agent.algorithm.normalize_obs")
    head = action_head(alg.action_pdtype, env.action_space, learnable=True)
    net = build_actor_critic(hp.net, space, head, env.action_space.shape, recurrent=recurrent)
    draw = jax.eval_shape(lambda: head.distribution(jnp.zeros(head.width), jnp.zeros(env.action_space.shape)).mode())

    def see(policy: Policy, obs: PyTree) -> PyTree:
        return normalize.apply(policy.obs_moments, obs) if alg.normalize_obs else obs

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        moments = normalize.init(jnp.zeros(space.shape)) if alg.normalize_obs else ()
        returns = normalize.init(jnp.zeros(())) if alg.normalize_return else ()
        running = jnp.zeros((env.num_envs,)) if alg.normalize_return else ()
        learner = Learner(actor_critic_optimizer(hp.net).init(params), returns, running)
        return AgentState(Policy(params, moments), learner)

    def act(
        policy: Policy, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool
    ) -> tuple[PyTree, PyTree, Extras]:
        pi, value, carry = net.step(policy.params, see(policy, obs), carry)
        raw = pi.mode() if greedy else pi.sample(rng)
        return pi.action(raw), carry, Extras(raw, pi.log_prob(raw), value)

    def see_rewards(learner: Learner, rollout: Rollout, hp: HP) -> Learner:
        return _see_rewards(learner, rollout, hp.algorithm.gamma) if alg.normalize_return else learner

    def see_observations(moments: Any, rollout: Rollout) -> Any:
        return _see_observations(moments, rollout) if alg.normalize_obs else moments

    def samples(policy: Policy, learner: Learner, rollout: Rollout, hp: HP) -> Sample:
        reward = normalize.scale(learner.return_moments, rollout.reward) if alg.normalize_return else rollout.reward
        raw, log_prob, value = rollout.extras
        obs, final_obs = see(policy, rollout.obs), see(policy, rollout.final_obs)
        ended = rollout.terminated | rollout.truncated
        over = boundary(rollout)
        _, v_tm1, v_t, _ = net.unroll_transitions(policy.params, obs, final_obs, rollout.carry, over)
        # A critic of its own is not run while acting, one step at a time (nobody reads what it would say, so XLA leaves
        # it out), but here at all steps at once.
        value = value if hp.net.shared else v_tm1
        discount_t = discounts(rollout.terminated, hp.algorithm.gamma)
        advantage = gae(reward, discount_t, value, v_t, ended, hp.algorithm.lam)
        weight = rollout.valid.astype(jnp.float32)
        return Sample(obs, raw, log_prob, value, advantage, advantage + value, weight, over)

    return OnPolicy(
        net, Box(-np.inf, np.inf, draw.shape, draw.dtype), init, act, see, see_rewards, see_observations, samples
    )


def _see_observations(moments: normalize.Moments, rollout: Rollout) -> normalize.Moments:
    flat = rollout.obs.reshape(-1, *rollout.obs.shape[2:])
    weight = rollout.valid.reshape(-1).astype(jnp.float32)
    return normalize.update(moments, flat, weight)


def _see_rewards(learner: Learner, rollout: Rollout, gamma: Any) -> Learner:
    def step(running: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, ended, valid = now
        running = jnp.where(valid, gamma * running + reward, running)
        return jnp.where(ended, 0.0, running), running

    ended = rollout.terminated | rollout.truncated
    running, returns = jax.lax.scan(step, learner.running_return, (rollout.reward, ended, rollout.valid))
    weight = rollout.valid.reshape(-1).astype(jnp.float32)
    moments = normalize.update(learner.return_moments, returns.reshape(-1), weight)
    return learner._replace(return_moments=moments, running_return=running)
