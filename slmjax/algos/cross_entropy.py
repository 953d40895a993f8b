"""The cross-entropy method on episodes (Rubinstein 1999; Mannor et al. 2003): the best become likelier.

    of the episodes that ended in a rollout, the elite: those with the highest returns
    descend once on  -mean log pi(a|s) - entropy_coef * entropy,  over all steps of the elite

What an update learns from is said in `learners/episodic.py`.
"""

from functools import partial

import jax.numpy as jnp

from slmjax.learners import episodic
from slmjax.maths.episodes import Episodes, elite_floor
from slmjax.policies.heads import EVERY_ACTION
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array


@hyper
class CrossEntropyKeys(episodic.EpisodicKeys):
    """`agent.algorithm` of name `CrossEntropy`."""

    name: str = key(default="CrossEntropy", doc="name of the algorithm")
    elite: float = key(default=0.2, doc="share of the episodes that are learned from, the best", above=0, high=1)


def advantages(found: Episodes, weight: Array, hp: HP) -> tuple[Array, Array]:
    """1 for every step, and no weight for those of other episodes than the elite."""
    best = found.total >= elite_floor(found, hp.algorithm.elite)
    return jnp.ones_like(weight), weight * best


make = partial(episodic.make, advantages=advantages, gamma=lambda hp: 1.0)
CROSS_ENTROPY = Algorithm(CrossEntropyKeys, make, EVERY_ACTION, ("OnPolicyReplay",), unread=episodic.UNREAD)
