"""Munchausen DQN: the reward plus the scaled log-probability of the action taken (Vieillard et al. 2020).

    pi(. | s) = softmax(Q_target(s, .) / tau)
    target: r + alpha [tau log pi(a | s)]_clip^0
              + gamma (1 - terminated) sum_a' pi(a' | s') (Q_target(s', a') - tau log pi(a' | s'))

Everything else is that of `learners/q_learning.py`; exploration is epsilon-greedy as in the paper. With n-step returns
the bonus is that of the first action, and the entropy that of the state bootstrapped from.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slmjax.algos.dqn import DQNKeys
from slmjax.learners import q_learning
from slmjax.maths.arrays import pick
from slmjax.maths.value_distributions import entropy
from slmjax.memory.replay import Batch
from slmjax.nets.keys import ACTOR_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array, Discrete


@hyper
class MunchausenKeys(DQNKeys):
    """`agent.algorithm` of name `MunchausenDQN`."""

    name: str = key(default="MunchausenDQN", doc="name of the algorithm")
    munchausen_alpha: float = key(default=0.9, doc="weight of the log-policy added to the reward", low=0, high=1)
    tau: float = key(default=0.03, doc="temperature of the softmax policy in the target", above=0)
    clip: float = key(default=-1.0, doc="lowest value of tau log pi that is added", high=0)


def munchausen(online: q_learning.QValues, target: q_learning.QValues, batch: Batch, hp: HP) -> tuple[Array, Array]:
    """The soft policy, and the reward with what it adds (Vieillard et al. 2020, section 3).

    Both additions are numbers a transition, so that any `ValueHead` can be taught: `sum_a' pi (Q - tau log pi)` is
    `sum_a' pi Q` plus `tau` times the entropy.
    """
    del online
    alg = hp.algorithm
    log_pi_tm1, log_pi_t = (jax.nn.log_softmax(q / alg.tau) for q in target)
    taken = pick(log_pi_tm1, batch.action)
    bonus = alg.munchausen_alpha * jnp.clip(alg.tau * taken, alg.clip, 0.0)
    policy_t = jnp.exp(log_pi_t)
    return batch.r_t + bonus + batch.discount_t * alg.tau * entropy(policy_t), policy_t


make = partial(q_learning.make, rule=munchausen)
MUNCHAUSEN_DQN = Algorithm(MunchausenKeys, make, (Discrete,), ("Replay",), unread=ACTOR_KEYS)
