"""Deep Q-learning (Mnih et al. 2015) and double DQN (van Hasselt et al. 2016).

    act: epsilon-greedy on Q(s, .)
    every `training_frequency` steps: remember them; then `training_iter` times
        sample a batch from the ring
        descend `training_batch_iter` times on  loss( r + gamma (1 - terminated) Q_target(s', a*) - Q(s, a) )
    the target network follows every `update_frequency` frames

The two differ in who picks `a*`: the target network itself (DQN) or the online one (double DQN).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax import registry
from slmjax.algos.losses import PUNISH, q_target, td_error, weighted_mean
from slmjax.memory.replay import Batch
from slmjax.memory.view import make_view
from slmjax.nets.build import build
from slmjax.nets.keys import ACTOR_KEYS
from slmjax.nets.optim import descend, optimizer
from slmjax.policies.exploration import POLICIES
from slmjax.policies.exploration import greedy as best_action
from slmjax.policies.masks import masking
from slmjax.policies.schedules import Schedule
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
    Store,
    Tail,
    VectorEnv,
)


@hyper
class DQNKeys:
    """`agent.algorithm` of name `DQN` or `DoubleDQN`."""

    name: str = key(default="DQN", doc="name of the algorithm")
    action_pdtype: str = key(default="Argmax", doc="distribution over actions", choices=("default", "Argmax"))
    action_policy: str = key(default="epsilon_greedy", doc="exploration", choices=tuple(POLICIES))
    explore_var_spec: float | Schedule = key(
        default=Schedule(start_val=1.0, end_val=0.05, end_step=10_000.0),
        doc="epsilon, or the temperature of boltzmann",
        low=0,
    )
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    training_frequency: int = key(default=1, doc="steps of each environment between two training events", low=1)
    training_iter: int = key(default=1, doc="batches of one training event", low=1)
    training_batch_iter: int = key(default=1, doc="gradient steps on each batch", low=1)
    training_start_step: int = key(default=1000, doc="frames remembered before training begins", low=0)


class Learner(NamedTuple):
    """What a DQN knows beside its network and its ring."""

    target: PyTree
    opt_state: PyTree


# (online parameters, target parameters) -> the parameters that pick the next action
Picker = Callable[[PyTree, PyTree], PyTree]


def make(hp: HP, env: VectorEnv, *, picker: Picker) -> Agent:
    """A DQN agent whose next action is picked by the network that `picker` returns.

    Raises:
        SpecError: the ring cannot hold a batch or a rollout, or a mask of valid actions does not fit.
    """
    alg, mem = hp.algorithm, hp.memory
    rollout_size = alg.training_frequency * env.num_envs
    store: Store = registry.resolve("memory", mem.name).make(mem, env, rollout_size)
    if alg.training_start_step > store.capacity:
        raise SpecError(
            f"expected at most {store.capacity} frames, the size of the memory, got {alg.training_start_step}.",
            "agent.algorithm.training_start_step",
        )
    view = make_view(mem, env.observation_space)
    net = build(hp.net, view.space, (Tail(env.action_space.n, "critic"),))
    updates = alg.training_iter * alg.training_batch_iter
    mask = masking(env.observation_space, (env.action_space.n,))

    def scores(params: PyTree, obs: PyTree) -> Array:
        (q,), _ = net.apply(params, obs, ())
        return mask(q, obs)

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        return AgentState(params, Learner(jax.tree.map(jnp.copy, params), _optimizer(hp).init(params)), store.init())

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        x, carry = view.see(obs, carry)
        q = scores(params, x)
        explore = POLICIES[hp.algorithm.action_policy]
        return (best_action(q) if greedy else explore(q, hp.algorithm.explore_var_spec, rng)), carry, ()

    def observe(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> AgentState:
        del rng
        return state._replace(memory=store.add(state.memory, rollout, hp.frame))

    def loss(params: PyTree, target: PyTree, batch: Batch, hp: HP) -> tuple[Array, tuple[Array, Array]]:
        q_tm1, q_t = scores(params, batch.obs), scores(target, batch.final_obs)
        q_t_selector = scores(jax.lax.stop_gradient(picker(params, target)), batch.final_obs)
        error = td_error(q_tm1, batch.action, q_target(batch.r_t, batch.discount_t, q_t, q_t_selector))
        punished = PUNISH[hp.net.loss_spec.name](error) * batch.importance
        return weighted_mean(punished, batch.weight), (jnp.mean(jnp.max(q_tm1, -1)), error)

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        ring = store.add(state.memory, rollout, hp.frame)
        written = hp.frame + rollout_size
        picks = store.sample(hp.memory, ring, rng, hp.algorithm.training_iter, written)
        target = state.learner.target

        def learn(carry: tuple[PyTree, PyTree], pick: PyTree) -> tuple[tuple[PyTree, PyTree], tuple[Array, Array]]:
            params, opt_state = carry
            batch = store.gather(hp.memory, ring, pick, hp.algorithm.gamma, written)
            (value, (q, error)), gradient = jax.value_and_grad(loss, has_aux=True)(params, target, batch, hp)
            params, opt_state = descend(_optimizer(hp), gradient, opt_state, params)
            return (params, opt_state), (jnp.stack([value, q, optax.tree.norm(gradient)]), error)

        repeated = jax.tree.map(lambda x: jnp.repeat(x, hp.algorithm.training_batch_iter, 0), picks)
        (params, opt_state), (logs, error) = jax.lax.scan(learn, (state.policy, state.learner.opt_state), repeated)
        ring = store.rate(
            hp.memory, ring, picks, error[hp.algorithm.training_batch_iter - 1 :: hp.algorithm.training_batch_iter]
        )
        learner = Learner(follow(target, params, hp, rollout_size), opt_state)
        value, q, norm = logs.mean(0)
        metrics = {"loss": value, "q_value": q, "grad_norm": norm}
        metrics |= {"lr": hp.net.optim_spec.lr, "explore_var": hp.algorithm.explore_var_spec}
        return AgentState(params, learner, ring), metrics

    return Agent(init, act, update, alg.training_frequency, observe, alg.training_start_step, updates, view.carry)


def follow(target: PyTree, params: PyTree, hp: HP, frames: int) -> PyTree:
    """The target network after an update that took `frames`: moved when a multiple of `update_frequency` was passed."""
    period = hp.net.update_frequency
    due = (hp.frame + frames) // period > hp.frame // period
    share = 1.0 if hp.net.update_type == "replace" else hp.net.polyak_coef
    return optax.incremental_update(params, target, jnp.where(due, share, 0.0))


def _optimizer(hp: HP) -> optax.GradientTransformation:
    return optimizer(hp.net.optim_spec, hp.net.clip_grad_val)


def _algorithm(picker: Picker) -> Algorithm:
    return Algorithm(DQNKeys, partial(make, picker=picker), (Discrete,), ("Replay",), ACTOR_KEYS)


DQN = _algorithm(lambda online, target: target)
DOUBLE_DQN = _algorithm(lambda online, target: online)
