"""Deep Q-learning (Mnih et al. 2015) and double DQN (van Hasselt et al. 2016).

    act: epsilon-greedy on Q(s, .)
    every `training_frequency` steps: remember them; then `training_iter` times
        sample a batch from the ring
        descend `training_batch_iter` times on  loss( r + gamma (1 - terminated) Q_target(s', a*) - Q(s, a) )
    the target network follows every `update_frequency` frames

`make` builds every value method with a replay memory from two parts. A `Rule` says what the next step is worth: by the
action that the target network likes best (DQN), that the online one likes best (double DQN), or softly
(`munchausen.py`). A `ValueHead` says what is predicted: mean returns (here) or distributions (`c51.py`, `qrdqn.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.algos.losses import weighted_mean
from slmjax.algos.offpolicy import make_store, remembering
from slmjax.algos.targets import follow_frames
from slmjax.algos.value_heads import EXPECTED, ActionValueKeys, ValueHead, greedy_policy
from slmjax.algos.watch import shown, watch
from slmjax.memory.replay import Batch
from slmjax.memory.sequences import Pair, side_by_side
from slmjax.nets.action_values import build_action_values
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.nets.optim import descend, net_optimizer
from slmjax.policies.exploration import POLICIES, greedy_action
from slmjax.policies.masks import masking
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Discrete, Key, PyTree, Rollout, VectorEnv


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


class Outlook(NamedTuple):
    """The values of all actions as one network sees them, `[B, A]`; minus infinity for those that are forbidden."""

    q_tm1: Array
    q_t: Array


# What the next step is worth: (the online network's outlook, the target network's, batch, hp) -> (r_t [B], the rewards
# with whatever the method adds, policy_t [B, A], probabilities of the next actions).
Rule = Callable[[Outlook, Outlook, Batch, HP], tuple[Array, Array]]


def q_learning(online: Outlook, target: Outlook, batch: Batch, hp: HP) -> tuple[Array, Array]:
    """The action that the target network likes best (Mnih et al. 2015, algorithm 1)."""
    del online, hp
    return batch.r_t, greedy_policy(target.q_t)


def double_q_learning(online: Outlook, target: Outlook, batch: Batch, hp: HP) -> tuple[Array, Array]:
    """The action that the online network likes best (van Hasselt et al. 2016, equation 4)."""
    del target, hp
    return batch.r_t, greedy_policy(online.q_t)


def make(
    hp: HP, env: VectorEnv, *, rule: Rule = q_learning, head: ValueHead = EXPECTED, target_network: bool = True
) -> Agent:
    """An agent that learns action values from replayed transitions; with a recurrent network, from windows (DRQN).

    Without a target network the online one, as it is at that moment, takes its place.

    Raises:
        SpecError: the ring cannot hold a batch or a rollout, or a mask of valid actions does not fit.
    """
    alg, space, actions = hp.algorithm, shown(hp, env).observation_space, env.action_space.n
    net, mask = build_action_values(hp.net, space, actions, head.width), masking(space, (actions,))
    size, store = alg.training_frequency * env.num_envs, make_store(hp, env, net.recurrent)

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        target = jax.tree.map(jnp.copy, params) if target_network else ()
        return AgentState(params, Learner(target, net_optimizer(hp.net).init(params)), store.init())

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        output, carry = net.step(params, obs, carry)
        q = mask(head.q(output, hp), obs)
        explore = POLICIES[hp.algorithm.action_policy]
        return (greedy_action(q) if greedy else explore(q, hp.algorithm.explore_var_spec, rng)), carry, ()

    def predict(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        carry = net.carry(batch.weight.shape[-1])
        return net.transitions(params, batch.obs, batch.final_obs, carry, batch.ended, getattr(hp.memory, "burn_in", 0))

    def loss(params: PyTree, target: PyTree, batch: Batch, hp: HP) -> tuple[Array, tuple[Array, Array]]:
        fixed = predict(target if target_network else jax.lax.stop_gradient(params), batch)
        flat, online, behind = side_by_side((batch, predict(params, batch), fixed), batch.last)

        def outlook(outputs: Pair) -> Outlook:
            return Outlook(*(mask(head.q(x, hp), o) for x, o in zip(outputs, (flat.obs, flat.final_obs), strict=True)))

        r_t, policy_t = rule(jax.lax.stop_gradient(outlook(online)), outlook(behind), flat, hp)
        punished, error = head.loss(online[0], flat.action, r_t, flat.discount_t, behind[1], policy_t, hp)
        value = weighted_mean(punished * flat.importance, flat.weight)
        best = weighted_mean(jnp.max(outlook(online).q_tm1, -1), flat.weight)
        return value, (best, (error * flat.weight).reshape(batch.weight.shape))

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        ring, written = store.add(state.memory, rollout, hp.frame), hp.frame + size
        picks = store.sample(hp.memory, ring, rng, hp.algorithm.training_iter, written)
        target, passes = state.learner.target, hp.algorithm.training_batch_iter

        def learn(carry: tuple[PyTree, PyTree], pick: PyTree) -> tuple[tuple[PyTree, PyTree], tuple[Array, Array]]:
            params, opt_state = carry
            batch = store.gather(hp.memory, ring, pick, hp.algorithm.gamma, written)
            (value, (q, error)), gradient = jax.value_and_grad(loss, has_aux=True)(params, target, batch, hp)
            params, opt_state = descend(net_optimizer(hp.net), gradient, opt_state, params)
            return (params, opt_state), (jnp.stack([value, q, optax.tree.norm(gradient)]), error)

        repeated = jax.tree.map(lambda x: jnp.repeat(x, passes, 0), picks)
        (params, opt_state), (logs, error) = jax.lax.scan(learn, (state.policy, state.learner.opt_state), repeated)
        ring = store.rate(hp.memory, ring, picks, error[passes - 1 :: passes])  # as they were in the last pass
        target = follow_frames(target, params, hp, size) if target_network else ()
        metrics = dict(zip(("loss", "q_value", "grad_norm"), logs.mean(0), strict=True))
        metrics |= {"lr": hp.net.optim_spec.lr, "explore_var": hp.algorithm.explore_var_spec}
        return AgentState(params, Learner(target, opt_state), ring), metrics

    steps, observe = alg.training_iter * alg.training_batch_iter, remembering(store)
    agent = Agent(init, act, update, alg.training_frequency, observe, alg.training_start_step, steps, net.carry)
    return watch(agent, hp, env)


DQN = Algorithm(DQNKeys, make, (Discrete,), ("Replay",), ACTOR_KEYS)
DOUBLE_DQN = Algorithm(DQNKeys, partial(make, rule=double_q_learning), (Discrete,), ("Replay",), ACTOR_KEYS)
UNREAD = ACTOR_KEYS + TARGET_KEYS
VANILLA_DQN = Algorithm(DQNKeys, partial(make, target_network=False), (Discrete,), ("Replay",), UNREAD)
