"""PQN: parallelised Q-network (Gallici et al. 2024), Q-learning without replay and without a target network.

    act for `time_horizon` steps: epsilon-greedy on Q(s, .)
    targets by Peng's Q(lambda), bootstrapped from max_a Q at the true successors
    `training_epoch` times, over shuffled minibatches: descend  loss( target - Q(s, a) )

What keeps it stable is layer normalisation in the network (`layer_norm`, true unless told otherwise) and many
environments.
"""

from functools import partial

from slmjax.learners import q_rollouts
from slmjax.learners.action_values import ActionValueKeys
from slmjax.maths.returns import discounts, q_lambda
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array, Discrete, Key, Rollout


@hyper
class PQNKeys(ActionValueKeys):
    """`agent.algorithm` of name `PQN`."""

    name: str = key(default="PQN", doc="name of the algorithm")
    lam: float = key(default=0.65, doc="lambda of Q(lambda)", low=0, high=1)
    time_horizon: int = key(default=32, doc="steps of each environment in a rollout", low=1)
    minibatch_size: int = key(default=32, doc="transitions of one gradient step", low=1)
    training_epoch: int = key(default=2, doc="passes over a rollout", low=1)


def targets(q_t: Array, rollout: Rollout, rng: Key, hp: HP) -> Array:
    """Peng's Q(lambda), `[T, E]`."""
    del rng
    discount_t = discounts(rollout.terminated, hp.algorithm.gamma)
    return q_lambda(rollout.reward, discount_t, q_t, rollout.ended, hp.algorithm.lam)


make = partial(q_rollouts.make, targets=targets, minibatched=True)
PQN = Algorithm(
    PQNKeys, make, (Discrete,), ("OnPolicyBatchReplay",), unread=ACTOR_KEYS + TARGET_KEYS, net={"layer_norm": True}
)
