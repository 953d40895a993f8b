"""PQN: parallelised Q-network (Gallici et al. 2024), Q-learning without replay and without a target network.

    act for `time_horizon` steps: epsilon-greedy on Q(s, .)
    targets by Peng's Q(lambda), bootstrapped from max_a Q at the true successors
    `training_epoch` times, over shuffled minibatches: descend  loss( target - Q(s, a) )

What keeps it stable is layer normalisation in the network (`layer_norm`, true unless told otherwise) and many
environments.
The targets are those of the parameters that acted; they stay fixed while a rollout is learned from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.algos import minibatches
from slmjax.algos.losses import PUNISH, td_error, weighted_mean
from slmjax.algos.returns import discounts, q_lambda
from slmjax.algos.value_heads import ActionValueKeys
from slmjax.algos.watch import shown, watch_rollouts
from slmjax.memory.view import boundary
from slmjax.nets.action_values import build_action_values
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.nets.optim import descend, net_optimizer
from slmjax.policies.exploration import POLICIES, greedy_action
from slmjax.policies.masks import masking
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Discrete, Key, PyTree, Rollout, VectorEnv


@hyper
class PQNKeys(ActionValueKeys):
    """`agent.algorithm` of name `PQN`."""

    name: str = key(default="PQN", doc="name of the algorithm")
    lam: float = key(default=0.65, doc="lambda of Q(lambda)", low=0, high=1)
    time_horizon: int = key(default=32, doc="steps of each environment in a rollout", low=1)
    minibatch_size: int = key(default=32, doc="transitions of one gradient step", low=1)
    training_epoch: int = key(default=2, doc="passes over a rollout", low=1)


class Sample(NamedTuple):
    """Transitions as the loss needs them, `[T, E, ...]`."""

    obs: PyTree
    action: Array
    target: Array
    weight: Array
    ended: Array  # where a carry begins anew after the step


def make(hp: HP, env: VectorEnv) -> Agent:
    """A PQN agent.

    Raises:
        SpecError: see `minibatches.plan`, `nets.build.build` and `policies.masks.masking`.
    """
    space, actions = shown(hp, env).observation_space, env.action_space.n
    net, mask = build_action_values(hp.net, space, actions), masking(space, (actions,))
    cut = minibatches.plan(hp, env, net.recurrent)

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        return AgentState(params, net_optimizer(hp.net).init(params))

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        output, carry = net.step(params, obs, carry)
        q = mask(output[..., 0], obs)
        explore = POLICIES[hp.algorithm.action_policy]
        return (greedy_action(q) if greedy else explore(q, hp.algorithm.explore_var_spec, rng)), carry, ()

    def samples(params: PyTree, rollout: Rollout, hp: HP) -> Sample:
        ended, over = rollout.terminated | rollout.truncated, boundary(rollout)
        _, output_t = net.transitions(params, rollout.obs, rollout.final_obs, rollout.carry, over)
        q_t, discount_t = mask(output_t[..., 0], rollout.final_obs), discounts(rollout.terminated, hp.algorithm.gamma)
        target = q_lambda(rollout.reward, discount_t, q_t, ended, hp.algorithm.lam)
        return Sample(rollout.obs, rollout.action, target, rollout.valid.astype(jnp.float32), over)

    def loss(params: PyTree, batch: Sample, carry: PyTree, hp: HP) -> tuple[Array, Array]:
        q_tm1 = net.unroll(params, batch.obs, carry, batch.ended)[..., 0]
        punished = PUNISH[hp.net.loss_spec.name](td_error(q_tm1, batch.action, batch.target))
        return weighted_mean(punished, batch.weight), weighted_mean(jnp.max(mask(q_tm1, batch.obs), -1), batch.weight)

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        pieces = minibatches.pieces(cut, samples(state.policy, rollout, hp))

        def learn(carry: tuple[PyTree, PyTree], index: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            params, opt_state = carry
            batch, start = minibatches.take(index, pieces, rollout.carry)
            (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, start, hp)
            logs = jnp.stack([value, q, optax.tree.norm(gradient)])
            return descend(net_optimizer(hp.net), gradient, opt_state, params), logs

        orders = minibatches.orders(cut, rng)
        (params, opt_state), logs = jax.lax.scan(learn, (state.policy, state.learner), orders)
        value, q, norm = logs.mean(0)
        metrics = {"loss": value, "q_value": q, "grad_norm": norm}
        metrics |= {"lr": hp.net.optim_spec.lr, "explore_var": hp.algorithm.explore_var_spec}
        return AgentState(params, opt_state), metrics

    agent = Agent(init, act, update, horizon=hp.algorithm.time_horizon, opt_steps=cut.gradient_steps, carry=net.carry)
    return watch_rollouts(agent, hp, env)


PQN = Algorithm(PQNKeys, make, (Discrete,), ("OnPolicyBatchReplay",), ACTOR_KEYS + TARGET_KEYS, {"layer_norm": True})
