"""REINFORCE (Williams 1992): the policy gradient with the return of each step to the end of its episode.

    of the episodes that ended in a rollout, each from its first step:
        G_t = r_t + gamma r_{t+1} + ...  to the end of the episode, with no bootstrap
    descend once on  -mean log pi(a|s) A - entropy_coef * entropy,  A = G, centred or standardised if asked

What an update learns from is said in `learners/episodic.py`.
"""

from functools import partial

from slmjax.learners import episodic
from slmjax.maths.episodes import Episodes
from slmjax.maths.losses import standardize, weighted_mean
from slmjax.policies.heads import EVERY_ACTION
from slmjax.spec.errors import refuse_unread
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array


@hyper
class ReinforceKeys(episodic.EpisodicKeys):
    """`agent.algorithm` of name `Reinforce`."""

    name: str = key(default="Reinforce", doc="name of the algorithm")
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    center_return: bool = key(default=True, doc="subtract the mean return of the update's steps")
    normalize_advantages: bool = key(default=True, doc="standardise the returns of the update's steps")

    def check(self) -> None:
        """Refuses keys that nothing reads; the loader calls it.

        Raises:
            SpecError: returns that are to be standardised but not centred.
        """
        if self.normalize_advantages:
            why = "normalize_advantages subtracts the mean, too; set that to false as well"
            refuse_unread(self, "agent.algorithm", why, "center_return")


def advantages(found: Episodes, weight: Array, hp: HP) -> tuple[Array, Array]:
    """The returns, centred or standardised over the update's steps."""
    if hp.algorithm.normalize_advantages:
        return standardize(found.to_go, weight), weight
    centred = found.to_go - weighted_mean(found.to_go, weight)
    return (centred if hp.algorithm.center_return else found.to_go), weight


make = partial(episodic.make, advantages=advantages)
REINFORCE = Algorithm(ReinforceKeys, make, EVERY_ACTION, ("OnPolicyReplay",), unread=episodic.UNREAD)
