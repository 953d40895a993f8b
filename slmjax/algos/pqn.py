"""PQN: parallelised Q-network (Gallici et al. 2024), Q-learning without replay and without a target network.

    act for `time_horizon` steps: epsilon-greedy on Q(s, .)
    targets by Peng's Q(lambda), bootstrapped from max_a Q at the true successors
    `training_epoch` times, over shuffled minibatches: descend  loss( target - Q(s, a) )

What keeps it stable is layer normalisation in the network (`layer_norm: true` of `agent.net`) and many environments.
The targets are those of the parameters that acted; they stay fixed while a rollout is learned from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.algos.losses import PUNISH, td_error, weighted_mean
from slmjax.algos.returns import discounts, q_lambda
from slmjax.algos.shuffle import permutation
from slmjax.algos.value_heads import ActionValueKeys
from slmjax.nets.build import build
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.nets.optim import descend, optimizer
from slmjax.policies.exploration import POLICIES
from slmjax.policies.exploration import greedy as best_action
from slmjax.spec.schema import hyper, key
from slmjax.types import (
    HP,
    Agent,
    AgentState,
    Algorithm,
    Array,
    Discrete,
    Key,
    PyTree,
    Rollout,
    SpecError,
    Tail,
    VectorEnv,
)


@hyper
class PQNKeys(ActionValueKeys):
    """`agent.algorithm` of name `PQN`."""

    name: str = key(default="PQN", doc="name of the algorithm")
    lam: float = key(default=0.65, doc="lambda of Q(lambda)", low=0, high=1)
    time_horizon: int = key(default=32, doc="steps of each environment in a rollout", low=1)
    minibatch_size: int = key(default=32, doc="transitions of one gradient step", low=1)
    training_epoch: int = key(default=2, doc="passes over a rollout", low=1)


class Sample(NamedTuple):
    """One transition as the loss needs it, `[B, ...]`."""

    obs: PyTree
    action: Array
    target: Array
    weight: Array


def make(hp: HP, env: VectorEnv) -> Agent:
    """A PQN agent.

    Raises:
        SpecError: a rollout that does not divide into minibatches.
    """
    alg, size = hp.algorithm, hp.algorithm.time_horizon * env.num_envs
    if size % alg.minibatch_size:
        raise SpecError(
            f"expected a divisor of the rollout, time_horizon {alg.time_horizon} x num_envs {env.num_envs} = {size}, "
            f"got {alg.minibatch_size}.",
            "agent.algorithm.minibatch_size",
        )
    net = build(hp.net, env.observation_space, (Tail(env.action_space.n, "critic"),))
    gradient_steps = alg.training_epoch * (size // alg.minibatch_size)

    def scores(params: PyTree, obs: PyTree) -> Array:
        (q,), _ = net.apply(params, obs, ())
        return q

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        return AgentState(params, _optimizer(hp).init(params))

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        q = scores(params, obs)
        explore = POLICIES[hp.algorithm.action_policy]
        return (best_action(q) if greedy else explore(q, hp.algorithm.explore_var_spec, rng)), carry, ()

    def loss(params: PyTree, batch: Sample, hp: HP) -> tuple[Array, Array]:
        q_tm1 = scores(params, batch.obs)
        punished = PUNISH[hp.net.loss_spec.name](td_error(q_tm1, batch.action, batch.target))
        return weighted_mean(punished, batch.weight), weighted_mean(jnp.max(q_tm1, -1), batch.weight)

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        ended = rollout.terminated | rollout.truncated
        discount_t = discounts(rollout.terminated, hp.algorithm.gamma)
        q_t = scores(state.policy, rollout.final_obs)
        target = q_lambda(rollout.reward, discount_t, q_t, ended, hp.algorithm.lam)
        samples = Sample(rollout.obs, rollout.action, target, rollout.valid.astype(jnp.float32))
        samples = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), samples)

        def learn(carry: tuple[PyTree, PyTree], index: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            params, opt_state = carry
            batch = jax.tree.map(lambda x: x[index], samples)
            (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, hp)
            logs = jnp.stack([value, q, optax.tree.norm(gradient)])
            return descend(_optimizer(hp), gradient, opt_state, params), logs

        orders = jax.vmap(lambda k: permutation(k, size))(jax.random.split(rng, alg.training_epoch))
        minibatches = orders.reshape(gradient_steps, alg.minibatch_size)
        (params, opt_state), logs = jax.lax.scan(learn, (state.policy, state.learner), minibatches)
        value, q, norm = logs.mean(0)
        metrics = {"loss": value, "q_value": q, "grad_norm": norm}
        metrics |= {"lr": hp.net.optim_spec.lr, "explore_var": hp.algorithm.explore_var_spec}
        return AgentState(params, opt_state), metrics

    return Agent(init, act, update, horizon=alg.time_horizon, opt_steps=gradient_steps)


def _optimizer(hp: HP) -> optax.GradientTransformation:
    return optimizer(hp.net.optim_spec, hp.net.clip_grad_val)


PQN = Algorithm(PQNKeys, make, (Discrete,), ("OnPolicyBatchReplay",), ACTOR_KEYS + TARGET_KEYS)
