"""Self-imitation learning on top of a policy gradient (Oh et al. 2018): SIL beside A2C, PPOSIL beside PPO.

    update as A2C or PPO does
    remember the rollout; `training_iter` times sample steps (s, a, R) whose episode has ended, and
    `training_batch_iter` times descend, where the return was better than thought, (R - V(s))+ = max(R - V(s), 0), on
        sil_policy_loss_coef * -log pi(a|s) (R - V(s))+  +  sil_val_loss_coef * (R - V(s))+^2 / 2

With `sil_pool` above 1 the steps are prioritized: each is chosen out of so many drawn ones with the probability
P ~ ((R - V(s))+ + epsilon)^sil_alpha and weighs (pool P)^-sil_beta (Schaul et al. 2016). V is that of the moment, where
priorities kept in the memory would be those of the last time that a step was drawn.

R is the true discounted return of the episode from there on, so it needs `normalize_return: false`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from slmjax import registry
from slmjax.algos import actor_critic, ppo
from slmjax.algos.losses import weighted_mean
from slmjax.algos.on_policy import on_policy
from slmjax.algos.watch import see_rollout
from slmjax.memory.replay import Batch
from slmjax.nets.actor_critic import actor_critic_optimizer
from slmjax.nets.keys import TARGET_KEYS
from slmjax.nets.optim import descend
from slmjax.policies.heads import EVERY_ACTION
from slmjax.spec.errors import refuse_unread
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Key, PyTree, Rollout, SpecError, Store, VectorEnv

EPSILON = 1e-4  # added to an advantage, so that a step without one may still be chosen
NEVER = -1e9


@hyper
class ImitationKeys:
    """What both methods read beside the keys of what they build on."""

    sil_policy_loss_coef: float = key(default=1.0, doc="weight of the imitation of actions", low=0)
    sil_val_loss_coef: float = key(default=0.01, doc="weight of the imitation of returns", low=0)
    training_iter: int = key(default=4, doc="batches of past steps after each rollout", low=1)
    training_batch_iter: int = key(default=1, doc="gradient steps on each batch", low=1)
    sil_pool: int = key(
        default=1, doc="past steps that each one imitated is chosen from by priority; 1: at random", low=1
    )
    sil_alpha: float = key(default=0.6, doc="how far priorities differ: 0 not at all, 1 as advantages do", low=0)
    sil_beta: float = key(default=0.1, doc="how much of the bias of priorities the weights take away", low=0, high=1)


@hyper
class SILKeys(ImitationKeys, actor_critic.ActorCriticKeys):
    """`agent.algorithm` of name `SIL`."""

    name: str = key(default="SIL", doc="name of the algorithm")


@hyper
class PPOSILKeys(ImitationKeys, ppo.PPOKeys):
    """`agent.algorithm` of name `PPOSIL`."""

    name: str = key(default="PPOSIL", doc="name of the algorithm")


def make(hp: HP, env: VectorEnv, *, base: Callable[[HP, VectorEnv], Agent]) -> Agent:
    """The agent of `base`, which also imitates what it did better than it expected.

    Raises:
        SpecError: a memory smaller than a rollout, scaled rewards, or keys of priorities where there are none; see
            also `on_policy`.
    """
    if hp.algorithm.normalize_return:
        raise SpecError("expected false: returns are compared with values.", "agent.algorithm.normalize_return")
    if hp.algorithm.sil_pool == 1:
        refuse_unread(hp.algorithm, "agent.algorithm", "priorities are for sil_pool above 1", "sil_alpha", "sil_beta")
    parts, alg = on_policy(hp, env, recurrent=False), hp.algorithm  # before the base, which may be recurrent
    agent = base(hp, env)
    steps, rollout_size = alg.training_iter * alg.training_batch_iter, agent.horizon * env.num_envs
    played = env._replace(action_space=parts.raw)
    store: Store = registry.resolve("memory", hp.memory.name).make(hp.memory, played, rollout_size)

    def init(rng: Key, hp: HP) -> AgentState:
        return agent.init(rng, hp)._replace(memory=store.init())

    def loss(params: PyTree, batch: Batch, hp: HP) -> tuple[Array, Array]:
        policy, value = parts.net.both(params, batch.obs)
        better = jnp.maximum(batch.r_t - value, 0.0)
        imitation = -policy.log_prob(batch.action) * jax.lax.stop_gradient(better)
        total = hp.algorithm.sil_policy_loss_coef * imitation + hp.algorithm.sil_val_loss_coef * 0.5 * better**2
        share = weighted_mean((better > 0).astype(jnp.float32), batch.weight)
        return weighted_mean(total * batch.importance, batch.weight), share

    def choose(params: PyTree, drawn: Batch, rng: Key, hp: HP) -> Batch:
        """`[B x pool]` steps to `B`, one out of each pool."""
        drawn = drawn._replace(importance=drawn.weight)  # an array, as the others
        pools: Batch = jax.tree.map(lambda x: x.reshape(-1, alg.sil_pool, *x.shape[1:]), drawn)
        better = jnp.maximum(pools.r_t - parts.net.value(params, pools.obs), 0.0)
        # A step whose return is not known is chosen where a pool holds nothing else.
        logits = jnp.where(pools.weight > 0, hp.algorithm.sil_alpha * jnp.log(better + EPSILON), NEVER)
        chosen = jax.random.categorical(rng, logits)
        take = lambda x: x[jnp.arange(len(chosen)), chosen]  # noqa: E731
        rarity = -(take(jax.nn.log_softmax(logits)) + jnp.log(jnp.maximum(jnp.sum(pools.weight, 1), 1.0)))
        batch: Batch = jax.tree.map(take, pools)
        rarest = jnp.max(jnp.where(batch.weight > 0, rarity, -jnp.inf))
        importance = jnp.exp(hp.algorithm.sil_beta * jnp.minimum(rarity - rarest, 0.0))
        return batch._replace(importance=jnp.where(batch.weight > 0, importance, 1.0))

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        base_key, sample_key, choose_key = jax.random.split(rng, 3)
        after, metrics = agent.update(state, rollout, base_key, hp)
        # What is imitated is the raw draw: the action may be a clipped one, which has no likelihood of its own.
        final_obs = parts.see(state.policy, see_rollout(rollout, hp, env).final_obs)
        v_t = parts.net.value(state.policy.params, final_obs)
        past = store.add(state.memory, rollout._replace(action=rollout.extras.raw), hp.frame, hp.algorithm.gamma, v_t)
        written = hp.frame + rollout_size
        picks = store.sample(hp.memory, past, sample_key, alg.training_iter * alg.sil_pool, written)
        picks = jax.tree.map(lambda x: x.reshape(alg.training_iter, -1), picks)

        def learn(carry: tuple[PyTree, PyTree], now: tuple[PyTree, Key]) -> tuple[tuple[PyTree, PyTree], Array]:
            (params, opt_state), (pick, choose_key) = carry, now
            batch = store.gather(hp.memory, past, pick, hp.algorithm.gamma, written)
            batch = batch._replace(obs=parts.see(state.policy, batch.obs))
            batch = choose(params, batch, choose_key, hp) if alg.sil_pool > 1 else batch
            (value, share), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, hp)
            moved = descend(actor_critic_optimizer(hp.net), gradient, opt_state, params)
            some = jnp.sum(batch.weight) > 0  # else an optimiser's momentum would act alone
            carry = jax.tree.map(lambda new, old: jnp.where(some, new, old), moved, carry)
            return carry, jnp.stack([value, share, optax.tree.norm(gradient)])

        repeated = jax.tree.map(lambda x: jnp.repeat(x, alg.training_batch_iter, 0), picks)
        now = repeated, jax.random.split(choose_key, steps)
        (params, opt_state), logs = jax.lax.scan(learn, (after.policy.params, after.learner.opt_state), now)
        value, share, norm = logs.mean(0)
        metrics |= {"sil_loss": value, "sil_share": share, "sil_grad_norm": norm}
        policy, learner = after.policy._replace(params=params), after.learner._replace(opt_state=opt_state)
        return AgentState(policy, learner, past), metrics

    return agent._replace(init=init, update=update, opt_steps=agent.opt_steps + steps)


def _algorithm(hyper: type, base: Callable[[HP, VectorEnv], Agent]) -> Algorithm:
    return Algorithm(hyper, partial(make, base=base), EVERY_ACTION, ("SILReplay",), TARGET_KEYS)


SIL = _algorithm(SILKeys, actor_critic.make)
PPOSIL = _algorithm(PPOSILKeys, ppo.make)
