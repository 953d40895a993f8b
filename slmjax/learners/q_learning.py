"""Q-learning from replayed transitions: DQN and variants; with a recurrent network, from windows (DRQN).

    loss( target - Q(s, a) ),  target = r_t + discount_t sum_a' pi(a' | s_t) Q_target(s_t, a')

over batches from the memory (`replayed.py`); `discount_t` is `gamma^n (1 - terminated)` of an n-step return. Members of
the family differ in a `Rule`, which gives `r_t` and `pi` (greedy by the target network, greedy by the online one, or
soft), and in a `ValueHead`, what is predicted (mean returns or distributions).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.learners import replayed
from slmjax.learners.action_values import act_by_values
from slmjax.learners.descent import Learned, Logs, begin, descent
from slmjax.learners.preprocess import network_space, stack_frames
from slmjax.learners.targets import after_step, after_update
from slmjax.learners.value_heads import EXPECTED, ValueHead, greedy_policy
from slmjax.maths.losses import weighted_mean
from slmjax.memory.replay import Batch
from slmjax.memory.sequences import Pair, side_by_side
from slmjax.nets.action_values import ActionValues, build_action_values
from slmjax.nets.optim import net_optimizer
from slmjax.policies.masks import masking
from slmjax.types import HP, Agent, AgentState, Array, Key, PyTree, Rollout, VectorEnv


class QLearner(NamedTuple):
    """What learning needs besides the network and the memory.

    Attributes:
        target: parameters of the target network; `()` where there is none.
        opt_state: of the optimiser.
    """

    target: PyTree
    opt_state: PyTree


class QValues(NamedTuple):
    """A network's values of all actions, `[B, A]`, before and after a step; minus infinity for those forbidden."""

    q_tm1: Array
    q_t: Array


# The bootstrap target: (the online network's values, the target network's, batch, hp) -> (r_t [B], the rewards with
# what the method adds, policy_t [B, A], probabilities of the next actions).
Rule = Callable[[QValues, QValues, Batch, HP], tuple[Array, Array]]


def q_learning(online: QValues, target: QValues, batch: Batch, hp: HP) -> tuple[Array, Array]:
    """The greedy action of the target network (Mnih et al. 2015, algorithm 1)."""
    del online, hp
    return batch.r_t, greedy_policy(target.q_t)


def double_q_learning(online: QValues, target: QValues, batch: Batch, hp: HP) -> tuple[Array, Array]:
    """The greedy action of the online network (van Hasselt et al. 2016, equation 4)."""
    del target, hp
    return batch.r_t, greedy_policy(online.q_t)


def make(
    hp: HP, env: VectorEnv, *, rule: Rule = q_learning, head: ValueHead = EXPECTED, target_network: bool = True
) -> Agent:
    """An agent that learns action values from a memory.

    Without a target network the online one, as it is at that moment, takes its place.

    Raises:
        SpecError: the memory cannot hold a batch or a rollout, or a mask of valid actions does not fit.
    """
    alg, space, actions = hp.algorithm, network_space(hp, env), env.action_space.n
    net, mask = build_action_values(hp.net, space, actions, head.width), masking(space, (actions,))
    store = replayed.make_store(hp, env, rollout_size=alg.training_frequency * env.num_envs, windows=net.recurrent)
    loss = partial(q_loss, net=net, mask=mask, rule=rule, head=head)
    iterations, passes = alg.training_iter, alg.training_batch_iter
    followed = lambda learned: learned.params if target_network else ()  # noqa: E731

    def init(rng: Key, hp: HP) -> AgentState:
        params, opt_state = begin(net.init(rng, hp.net), net_optimizer(hp.net))
        return AgentState(params, QLearner(jax.tree.map(jnp.copy, params) if target_network else (), opt_state))

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, Logs]:
        descend = descent(partial(loss, hp=hp), net_optimizer(hp.net))

        def step(now: tuple[Learned, PyTree], batch: Batch, key: Key, i: Array) -> tuple[Any, Logs, Array]:
            del key, i
            learned, target = now
            learned, logs = descend(learned, batch, target)
            error = logs.pop("error")
            return (learned, after_step(target, followed(learned), hp)), logs, error

        start = Learned(state.policy, state.learner.opt_state), state.learner.target
        (learned, target), ring, logs = replayed.replay(
            store, state.memory, rollout, start, step, hp, batches=iterations, passes=passes, sample_key=rng
        )
        target = after_update(target, followed(learned), hp, rollout.reward.size)
        return AgentState(learned.params, QLearner(target, learned.opt_state), ring), logs

    agent = Agent(
        init=init,
        act=act_by_values(net, mask, head.q),
        update=update,
        horizon=alg.training_frequency,
        warmup=alg.training_start_step,
        opt_steps=iterations * passes,
        carry=net.carry,
    )
    return stack_frames(replayed.remembers(agent, store), hp, env)


def q_loss(
    params: PyTree,
    batch: Batch,
    target: PyTree,
    hp: HP,
    *,
    net: ActionValues,
    mask: Callable[[Array, PyTree], Array],
    rule: Rule,
    head: ValueHead,
) -> tuple[Array, Logs]:
    """The mean loss of a batch; the values of the best actions, and the error of each prediction.

    `target` are the parameters of the target network, or `()`.
    """

    def predict(params: PyTree) -> Pair:
        carry, burn_in = net.carry(batch.weight.shape[-1]), getattr(hp.memory, "burn_in", 0)
        return net.transitions(params, batch.obs, batch.final_obs, carry, batch.resets, burn_in)

    # Both networks at s and at s': a rule may read any of the four, and XLA drops what it does not read.
    online = predict(params)
    fixed = predict(target) if target else jax.lax.stop_gradient(online)
    flat, online, fixed = side_by_side((batch, online, fixed), batch.last)

    def values(outputs: Pair) -> QValues:
        return QValues(*(mask(head.q(x, hp), o) for x, o in zip(outputs, (flat.obs, flat.final_obs), strict=True)))

    r_t, policy_t = rule(jax.lax.stop_gradient(values(online)), values(fixed), flat, hp)
    losses, error = head.loss(online[0], flat.action, r_t, flat.discount_t, fixed[1], policy_t, hp)
    best = weighted_mean(jnp.max(values(online).q_tm1, -1), flat.weight)
    logs = {"q_value": best, "error": (error * flat.weight).reshape(batch.weight.shape)}
    return weighted_mean(losses * flat.importance, flat.weight), logs
