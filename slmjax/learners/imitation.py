"""Self-imitation along with a policy gradient (Oh et al. 2018): any agent of `on_policy.py` also learns from its past.

    update as it does
    remember the rollout; `training_iter` times sample steps (s, a, R) whose episode has ended, and
    `training_batch_iter` times descend, where the return was better than thought, (R - V(s))+ = max(R - V(s), 0), on
        sil_policy_loss_coef * -log pi(a|s) (R - V(s))+  +  sil_val_loss_coef * (R - V(s))+^2 / 2

With `sil_pool` above 1 the steps are prioritized: each is chosen out of so many drawn ones with the probability
P ~ ((R - V(s))+ + epsilon)^sil_alpha and weighs (pool P)^-sil_beta (Schaul et al. 2016). V is the current one, where
priorities kept in the memory would be as old as the last draw of their step.

R is the true discounted return of the episode from there on, so it needs `normalize_return: false`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from slmjax.learners import on_policy, replayed
from slmjax.learners.descent import Learned, Logs, descent
from slmjax.learners.preprocess import preprocess_rollout
from slmjax.maths.arrays import where
from slmjax.maths.losses import weighted_mean
from slmjax.memory.replay import Batch
from slmjax.nets.actor_critic import ActorCritic, actor_critic_optimizer
from slmjax.spec.errors import refuse_unread
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Array, Key, PyTree, Rollout, SpecError, Store, VectorEnv

EPSILON = 1e-4  # added to an advantage, so that a step without one may still be chosen
NEVER = -1e9


@hyper
class ImitationKeys:
    """Keys of `agent.algorithm` besides those of the agent that imitates itself."""

    sil_policy_loss_coef: float = key(default=1.0, doc="weight of the imitation of actions", low=0)
    sil_val_loss_coef: float = key(default=0.01, doc="weight of the imitation of returns", low=0)
    training_iter: int = key(default=4, doc="batches of past steps after each rollout", low=1)
    training_batch_iter: int = key(default=1, doc="gradient steps on each batch", low=1)
    sil_pool: int = key(
        default=1, doc="past steps that each one imitated is chosen from by priority; 1: at random", low=1
    )
    sil_alpha: float = key(default=0.6, doc="how far priorities differ: 0 not at all, 1 as advantages do", low=0)
    sil_beta: float = key(default=0.1, doc="how much of the bias of priorities the weights take away", low=0, high=1)

    def check(self) -> None:
        """Refuses keys that nothing reads; the loader calls it.

        Raises:
            SpecError: a key of priorities where there are no priorities.
        """
        if self.sil_pool == 1:
            refuse_unread(self, "agent.algorithm", "priorities are for sil_pool above 1", "sil_alpha", "sil_beta")


def make(hp: HP, env: VectorEnv, *, base: Callable[[HP, VectorEnv], Agent]) -> Agent:
    """The agent of `base`, which also imitates what it did better than it expected.

    Raises:
        SpecError: a memory smaller than a rollout, or scaled rewards; see also `on_policy.build`.
    """
    if hp.algorithm.normalize_return:
        raise SpecError("expected false: returns are compared with values.", "agent.algorithm.normalize_return")
    parts, alg = on_policy.build(hp, env, recurrent=False), hp.algorithm  # before the base, which may be recurrent
    agent = base(hp, env)
    # What is imitated is the raw draw: the action may be a clipped one, which has no likelihood of its own.
    played = env._replace(action_space=parts.raw)
    store = _pooled(replayed.make_store(hp, played, rollout_size=agent.horizon * env.num_envs), alg.sil_pool)
    iterations, passes = alg.training_iter, alg.training_batch_iter

    def init(rng: Key, hp: HP) -> AgentState:
        return agent.init(rng, hp)._replace(memory=store.init())

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, Logs]:
        base_key, draw, pick = jax.random.split(rng, 3)
        after, metrics = agent.update(state, rollout, base_key, hp)
        final_obs = parts.normalize(state.policy, preprocess_rollout(rollout, hp, env).final_obs)
        _, final_value, _ = parts.net.step(state.policy.params, final_obs, ())
        past = rollout._replace(action=rollout.extras.raw, final_value=final_value)
        descend = descent(partial(_loss, parts.net, hp=hp), actor_critic_optimizer(hp.net))

        def step(before: Learned, batch: Batch, key: Key, i: Array) -> tuple[Learned, Logs, Array]:
            batch = batch._replace(obs=parts.normalize(state.policy, batch.obs))
            batch = _choose(parts.net, before.params, batch, key, hp) if alg.sil_pool > 1 else batch
            moved, logs = descend(before, batch)
            error = logs.pop("error")
            # Where no return is known an optimiser's momentum would act alone.
            return where(jnp.sum(batch.weight) > 0, moved, before), logs, error

        start, ring = Learned(after.policy.params, after.learner.opt_state), state.memory
        learned, ring, logs = replayed.replay(
            store, ring, past, start, step, hp, batches=iterations, passes=passes, sample_key=draw, step_key=pick
        )
        metrics |= {f"sil_{name}": value for name, value in logs.items()}
        policy = after.policy._replace(params=learned.params)
        return AgentState(policy, after.learner._replace(opt_state=learned.opt_state), ring), metrics

    return agent._replace(init=init, update=update, opt_steps=agent.opt_steps + iterations * passes)


def _loss(net: ActorCritic, params: PyTree, batch: Batch, hp: HP) -> tuple[Array, Logs]:
    policy, value, _ = net.step(params, batch.obs, ())
    better = jnp.maximum(batch.r_t - value, 0.0)
    imitation = -policy.log_prob(batch.action) * jax.lax.stop_gradient(better)
    total = hp.algorithm.sil_policy_loss_coef * imitation + hp.algorithm.sil_val_loss_coef * 0.5 * better**2
    share = weighted_mean((better > 0).astype(jnp.float32), batch.weight)
    return weighted_mean(total * batch.importance, batch.weight), {"share": share, "error": better}


def _choose(net: ActorCritic, params: PyTree, drawn: Batch, rng: Key, hp: HP) -> Batch:
    """`[B x pool]` steps to `B`, one out of each pool."""
    drawn = drawn._replace(importance=drawn.weight)  # an array, as the others
    pools: Batch = jax.tree.map(lambda x: x.reshape(-1, hp.algorithm.sil_pool, *x.shape[1:]), drawn)
    _, value, _ = net.step(params, pools.obs, ())
    better = jnp.maximum(pools.r_t - value, 0.0)
    # A step whose return is not known is chosen where a pool holds nothing else.
    logits = jnp.where(pools.weight > 0, hp.algorithm.sil_alpha * jnp.log(better + EPSILON), NEVER)
    chosen = jax.random.categorical(rng, logits)
    take = lambda x: x[jnp.arange(len(chosen)), chosen]  # noqa: E731
    rarity = -(take(jax.nn.log_softmax(logits)) + jnp.log(jnp.maximum(jnp.sum(pools.weight, 1), 1.0)))
    batch: Batch = jax.tree.map(take, pools)
    rarest = jnp.max(jnp.where(batch.weight > 0, rarity, -jnp.inf))
    importance = jnp.exp(hp.algorithm.sil_beta * jnp.minimum(rarity - rarest, 0.0))
    return batch._replace(importance=jnp.where(batch.weight > 0, importance, 1.0))


def _pooled(store: Store, pool: int) -> Store:
    """The store with batches `pool` times as large."""
    if pool == 1:
        return store

    def sample(spec: HP, ring: PyTree, rng: Key, batches: int, frame: Array) -> PyTree:
        picks = store.sample(spec, ring, rng, batches * pool, frame)
        return jax.tree.map(lambda x: x.reshape(batches, -1), picks)

    return store._replace(sample=sample)
