"""Advantage actor-critic, A2C: one descent on each rollout (Mnih et al. 2016; Schulman et al. 2016 for GAE).

    act for `training_frequency` steps, keeping the value of each observation
    advantages, bootstrapped from the true successors:
        lam = 1   n-step returns to the end of the rollout, as long as it lets them be
        lam = 0   plain temporal differences
        between   GAE
    descend once on  -mean log pi(a|s) A + val_loss_coef * value loss - entropy_coef * entropy

The critic's target is `A + V`, the lambda-return.
"""

from functools import partial
from typing import Any

from slmjax.learners import on_policy
from slmjax.learners.descent import Logs
from slmjax.maths.losses import ELEMENTWISE, weighted_mean
from slmjax.nets.keys import TARGET_KEYS
from slmjax.policies.heads import EVERY_ACTION
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array


@hyper
class ActorCriticKeys(on_policy.OnPolicyKeys):
    """`agent.algorithm` of name `ActorCritic`."""

    name: str = key(default="ActorCritic", doc="name of the algorithm")
    lam: float = key(default=1.0, doc="lambda of the advantages: 1 for n-step returns, 0 for plain TD", low=0, high=1)
    training_frequency: int = key(default=5, doc="steps of each environment in a rollout, the n of n-step", low=1)
    normalize_advantages: bool = key(default=False, doc="standardise the advantages of each rollout")


def loss(policy: Any, value: Array, batch: on_policy.Sample, hp: HP) -> tuple[Array, Logs]:
    """The policy gradient with its value loss and entropy bonus (Mnih et al. 2016, algorithm S3)."""
    policy_loss = -weighted_mean(policy.log_prob(batch.raw) * batch.advantage, batch.weight)
    value_loss = ELEMENTWISE[hp.net.loss_spec.name](value - batch.target)
    return on_policy.weigh(policy, policy_loss, value_loss, batch, hp)


make = partial(on_policy.make, loss=loss)
ACTOR_CRITIC = Algorithm(ActorCriticKeys, make, EVERY_ACTION, ("OnPolicyBatchReplay",), unread=TARGET_KEYS)
