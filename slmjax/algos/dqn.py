"""Deep Q-learning (Mnih et al. 2015) and double DQN (van Hasselt et al. 2016).

    act: epsilon-greedy on Q(s, .)
    every `training_frequency` steps: remember them; then `training_iter` times
        sample a batch from the ring
        descend `training_batch_iter` times on  loss( r + gamma (1 - terminated) Q_target(s', a*) - Q(s, a) )
    the target network follows every `update_frequency` frames

`make` builds every value method with a replay memory from two parts. A `Rule` says what the next step is worth: by the
action that the target network likes best (DQN), that the online one likes best (double DQN), or softly
(`munchausen.py`). A `ValueHead` says what is predicted: an expected return (here), or its distribution (`c51.py`,
`qrdqn.py`). Vanilla DQN has no target network: it bootstraps from the online one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax import registry
from slmjax.algos.losses import weighted_mean
from slmjax.algos.value_heads import EXPECTED, ActionValueKeys, ValueHead, greedy_policy
from slmjax.memory.replay import Batch
from slmjax.memory.view import make_view
from slmjax.nets.build import build
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.nets.optim import descend, optimizer
from slmjax.policies.exploration import POLICIES
from slmjax.policies.exploration import greedy as best_action
from slmjax.policies.masks import masking
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
class DQNKeys(ActionValueKeys):
    """`agent.algorithm` of name `DQN`, `DoubleDQN` or `VanillaDQN`."""

    name: str = key(default="DQN", doc="name of the algorithm")
    training_frequency: int = key(default=1, doc="steps of each environment between two training events", low=1)
    training_iter: int = key(default=1, doc="batches of one training event", low=1)
    training_batch_iter: int = key(default=1, doc="gradient steps on each batch", low=1)
    training_start_step: int = key(default=1000, doc="frames remembered before training begins", low=0)


class Learner(NamedTuple):
    """What a DQN knows beside its network and its ring."""

    target: PyTree  # parameters, or () without a target network
    opt_state: PyTree


# What the next step is worth: (q of the online network, q of the target network, batch, hp) -> (r_t [B], the rewards
# with whatever the method adds, policy_t [B, A], probabilities of the next actions). Each q is obs [B, ...] -> [B, A].
Rule = Callable[[Callable[[PyTree], Array], Callable[[PyTree], Array], Batch, HP], tuple[Array, Array]]


def q_learning(online_q: Any, target_q: Any, batch: Batch, hp: HP) -> tuple[Array, Array]:
    """The action that the target network likes best (Mnih et al. 2015, algorithm 1)."""
    del online_q, hp
    return batch.r_t, greedy_policy(target_q(batch.final_obs))


def double_q_learning(online_q: Any, target_q: Any, batch: Batch, hp: HP) -> tuple[Array, Array]:
    """The action that the online network likes best (van Hasselt et al. 2016, equation 4)."""
    del target_q, hp
    return batch.r_t, greedy_policy(online_q(batch.final_obs))


def make(
    hp: HP, env: VectorEnv, *, rule: Rule = q_learning, head: ValueHead = EXPECTED, target_network: bool = True
) -> Agent:
    """An agent that learns action values from replayed transitions.

    Without a target network the online one, as it is at that moment, takes its place.

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
    view, actions = make_view(mem, env.observation_space), env.action_space.n
    net = build(hp.net, view.space, (Tail(actions * head.width, "critic", actions),))
    updates = alg.training_iter * alg.training_batch_iter
    mask = masking(env.observation_space, (env.action_space.n,))

    def predict(params: PyTree, obs: PyTree) -> Array:
        (output,), _ = net.apply(params, obs, ())
        return output.reshape(*output.shape[:-1], actions, head.width)

    def scores(params: PyTree, obs: PyTree, hp: HP) -> Array:
        return mask(head.q(predict(params, obs), hp), obs)

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        target = jax.tree.map(jnp.copy, params) if target_network else ()
        return AgentState(params, Learner(target, _optimizer(hp).init(params)), store.init())

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        x, carry = view.see(obs, carry)
        q = scores(params, x, hp)
        explore = POLICIES[hp.algorithm.action_policy]
        return (best_action(q) if greedy else explore(q, hp.algorithm.explore_var_spec, rng)), carry, ()

    def observe(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> AgentState:
        del rng
        return state._replace(memory=store.add(state.memory, rollout, hp.frame))

    def loss(params: PyTree, target: PyTree, batch: Batch, hp: HP) -> tuple[Array, tuple[Array, Array]]:
        fixed = jax.lax.stop_gradient(params)
        behind = target if target_network else fixed
        online_q, target_q = (partial(scores, p, hp=hp) for p in (fixed, behind))
        r_t, policy_t = rule(online_q, target_q, batch, hp)
        output_tm1, output_t = predict(params, batch.obs), predict(behind, batch.final_obs)
        punished, error = head.loss(output_tm1, batch.action, r_t, batch.discount_t, output_t, policy_t, hp)
        value = weighted_mean(punished * batch.importance, batch.weight)
        return value, (jnp.mean(jnp.max(head.q(output_tm1, hp), -1)), error)

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
        target = follow(target, params, hp, rollout_size) if target_network else ()
        value, q, norm = logs.mean(0)
        metrics = {"loss": value, "q_value": q, "grad_norm": norm}
        metrics |= {"lr": hp.net.optim_spec.lr, "explore_var": hp.algorithm.explore_var_spec}
        return AgentState(params, Learner(target, opt_state), ring), metrics

    return Agent(init, act, update, alg.training_frequency, observe, alg.training_start_step, updates, view.carry)


def follow(target: PyTree, params: PyTree, hp: HP, frames: int) -> PyTree:
    """The target network after an update that took `frames`.

    It moves once for each multiple of `update_frequency` that was passed: `k` polyak updates towards the same
    parameters leave `(1 - polyak_coef)^k` of the old ones.
    """
    period = hp.net.update_frequency
    moves = (hp.frame + frames) // period - hp.frame // period
    left = 0.0 if hp.net.update_type == "replace" else 1.0 - hp.net.polyak_coef
    return optax.incremental_update(params, target, 1.0 - left**moves)


def _optimizer(hp: HP) -> optax.GradientTransformation:
    return optimizer(hp.net.optim_spec, hp.net.clip_grad_val)


DQN = Algorithm(DQNKeys, make, (Discrete,), ("Replay",), ACTOR_KEYS)
DOUBLE_DQN = Algorithm(DQNKeys, partial(make, rule=double_q_learning), (Discrete,), ("Replay",), ACTOR_KEYS)
VANILLA_DQN = Algorithm(
    DQNKeys, partial(make, target_network=False), (Discrete,), ("Replay",), ACTOR_KEYS + TARGET_KEYS
)
