"""Soft actor-critic (Haarnoja et al. 2018b), continuous, and discrete by exact expectation (Christodoulou 2019).

    act: a ~ pi(. | s)
    for each sampled batch
        V(s')     = E_{a' ~ pi} [ min_i Q_target_i(s', a') - alpha log pi(a' | s') ]
        critics   descend  ( r + gamma (1 - terminated) V(s') - Q_i(s, a) )^2
        actor     descends  E_{a ~ pi} [ alpha log pi(a | s) - min_i Q_i(s, a) ]       with the critics just learned
        log alpha descends  log alpha (H(pi) - target entropy)
        the target critics follow

The actor and its expectations are in `soft.py`: one draw where actions are continuous, a sum where they are discrete.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.algos import offpolicy, temperature
from slmjax.algos.critics import build_critics, critic_optimizer, descend_each, init_each, learning
from slmjax.algos.losses import weighted_mean
from slmjax.algos.offpolicy import ReplayKeys, Tick
from slmjax.algos.soft import CriticLoss, entropy, soft_policy, soft_td_loss, soft_value
from slmjax.algos.targets import follow_steps
from slmjax.algos.temperature import TemperatureKeys
from slmjax.algos.watch import shown, watch
from slmjax.memory.replay import Batch
from slmjax.nets.batch_renorm import keep_statistics
from slmjax.nets.build import build
from slmjax.nets.keys import POLICY_GRADIENT_KEYS
from slmjax.nets.optim import descend, net_optimizer
from slmjax.policies.masks import masking
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Box, Discrete, Key, PyTree, Rollout, Tail, VectorEnv


@hyper
class SACKeys(TemperatureKeys, ReplayKeys):
    """`agent.algorithm` of name `SoftActorCritic`."""

    name: str = key(default="SoftActorCritic", doc="name of the algorithm")


class Learner(NamedTuple):
    """What it knows beside the actor.

    Attributes:
        critics: parameters `[2, ...]`.
        targets: those of the target critics; `()` where there are none.
        log_alpha: logarithm of the temperature.
        opt_states: of the critics `[2, ...]`, of the actor and of `log_alpha`.
        shown: what the last step of the actor logged; steps without one show it again.
    """

    critics: PyTree
    targets: PyTree
    log_alpha: Array
    opt_states: tuple[PyTree, PyTree, PyTree]
    shown: dict[str, Array]


def make(hp: HP, env: VectorEnv, *, critic_loss: CriticLoss = soft_td_loss, targets: bool = True) -> Agent:
    """A soft actor-critic; without `targets` it keeps no target critics.

    Raises:
        SpecError: a memory too small, actions without finite bounds, or a mask of valid actions that does not fit.
    """
    size, store = offpolicy.rollout_size(hp, env), offpolicy.make_store(hp, env)
    seen = shown(hp, env).observation_space
    policy = soft_policy(hp, env.action_space)
    # The actor first: what an error says of observations is then about those of the environment alone.
    net = build(hp.net, seen, (Tail(policy.width, "actor"),), statistics=True)
    critics = build_critics(hp.net, seen, env.action_space, 2)
    mask = masking(seen, (env.action_space.n,) if isinstance(env.action_space, Discrete) else ())

    def init(rng: Key, hp: HP) -> AgentState:
        actor_key, critic_key = jax.random.split(rng)
        actor, twins = net.init(actor_key, hp.net), critics.init(critic_key, hp.net)
        log_alpha, alpha_opt = temperature.init(hp)
        opt_states = (init_each(critic_optimizer(hp), twins), net_optimizer(hp.net).init(actor), alpha_opt)
        followed = jax.tree.map(jnp.copy, twins) if targets else ()
        shown = {"actor_loss": jnp.zeros(()), "entropy": jnp.zeros(())}
        return AgentState(actor, Learner(twins, followed, log_alpha, opt_states, shown), store.init())

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        (output,), _ = net.apply(params, obs, ())
        return *policy.act(mask(output, obs), carry, rng, hp, greedy), ()

    def learn_actor(state: tuple[PyTree, Learner], batch: Batch, rng: Key, hp: HP) -> tuple[PyTree, Learner]:
        (actor, learner), alpha = state, temperature.alpha(state[1].log_alpha, hp)
        critic_opt, actor_opt, alpha_opt = learner.opt_states

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Array, PyTree]]:
            (output,), learned = learning(net)(params, batch.obs, batch.weight)
            output = mask(output, batch.obs)
            draws, most = policy.draws(output, rng), weighted_mean(policy.target_entropy(output, hp), batch.weight)
            value = soft_value(critics.apply(learner.critics, batch.obs, draws.action), draws, alpha)
            return -weighted_mean(value, batch.weight), (weighted_mean(entropy(draws), batch.weight), most, learned)

        (value, (h, most, learned)), gradient = jax.value_and_grad(loss, has_aux=True)(actor)
        actor, actor_opt = descend(net_optimizer(hp.net), gradient, actor_opt, learned)
        actor = keep_statistics(actor, learned)
        log_alpha, alpha_opt = temperature.learn(learner.log_alpha, alpha_opt, h, most, hp)
        shown = {"actor_loss": value, "entropy": h}
        return actor, Learner(learner.critics, learner.targets, log_alpha, (critic_opt, actor_opt, alpha_opt), shown)

    def learn(
        state: tuple[PyTree, Learner], batch: Batch, rng: Key, tick: Tick, hp: HP
    ) -> tuple[tuple[PyTree, Learner], dict[str, Array], Array]:
        (actor, learner), (target_key, actor_key) = state, jax.random.split(rng)
        alpha = temperature.alpha(learner.log_alpha, hp)
        (output,), _ = net.apply(actor, batch.final_obs, ())
        draws_t = policy.draws(mask(output, batch.final_obs), target_key)
        loss = partial(critic_loss, critics, targets=learner.targets, draws_t=draws_t, alpha=alpha, batch=batch, hp=hp)
        (value, (error, q, learned)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.critics)
        twins, critic_opt = descend_each(critic_optimizer(hp), gradient, learner.opt_states[0], learned)
        learner = learner._replace(critics=twins, opt_states=(critic_opt, *learner.opt_states[1:]))
        actor_step = partial(learn_actor, batch=batch, rng=actor_key, hp=hp)
        actor, learner = offpolicy.every(hp.algorithm.policy_delay, tick, actor_step, (actor, learner))
        if targets:
            learner = learner._replace(targets=follow_steps(learner.targets, twins, hp, size, tick.last))
        logs = {"critic_loss": value, "q_value": q, "grad_norm": optax.tree.norm(gradient), "alpha": alpha}
        return (actor, learner), logs | learner.shown, error

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        known, step = (state.policy, state.learner), partial(learn, hp=hp)
        (actor, learner), ring, logs = offpolicy.replay(store, size, state.memory, rollout, rng, hp, known, step)
        logs |= {"loss": logs["critic_loss"] + logs["actor_loss"], "lr": hp.net.optim_spec.lr}
        return AgentState(actor, learner, ring), logs

    alg, observe = hp.algorithm, offpolicy.remembering(store)
    agent = Agent(
        init, act, update, alg.training_frequency, observe, alg.training_start_step, alg.training_iter, policy.carry
    )
    return watch(agent, hp, env)


SOFT_ACTOR_CRITIC = Algorithm(
    SACKeys, make, (Discrete, Box), ("Replay",), POLICY_GRADIENT_KEYS, {"update_type": "polyak"}
)
