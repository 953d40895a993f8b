"""Proximal policy optimisation (Schulman et al. 2017), in every action space.

    act for `time_horizon` steps, keeping the log-probability of each action
    advantages by GAE, bootstrapped from the true successors
    `training_epoch` times, over shuffled minibatches: descend
        -clipped surrogate + val_loss_coef * value loss - entropy_coef * entropy

Acting, normalisers and advantages are those of `learners/on_policy.py`.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp

from slmjax.learners import on_policy
from slmjax.learners.descent import Logs
from slmjax.maths.losses import ELEMENTWISE, clipped_surrogate, clipped_value, weighted_mean
from slmjax.nets.keys import TARGET_KEYS
from slmjax.policies.heads import EVERY_ACTION
from slmjax.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array


@hyper
class PPOKeys(on_policy.OnPolicyKeys):
    """`agent.algorithm` of name `PPO`."""

    name: str = key(default="PPO", doc="name of the algorithm")
    lam: float = key(default=0.95, doc="lambda of generalised advantage estimation", low=0, high=1)
    clip_eps_spec: float | Schedule = key(default=0.2, doc="how far the probability ratio may move", low=0)
    time_horizon: int = key(default=128, doc="steps of each environment in a rollout", low=1)
    minibatch_size: int = key(default=128, doc="transitions of one gradient step", low=1)
    training_epoch: int = key(default=4, doc="passes over a rollout", low=1)
    clip_vloss: bool = key(default=False, doc="clip the value loss as the surrogate is")
    normalize_advantages: bool = key(default=True, doc="standardise the advantages of each minibatch")


def loss(policy: Any, value: Array, batch: on_policy.Sample, hp: HP) -> tuple[Array, Logs]:
    """The negative of the clipped objective with value loss and entropy bonus (Schulman et al. 2017, equation 9)."""
    # exp overflows above 88, and the gradient of the branch that the minimum rejects is then 0 x inf = NaN.
    log_ratio = jnp.clip(policy.log_prob(batch.raw) - batch.log_prob, -20.0, 20.0)
    clip, elementwise = hp.algorithm.clip_eps_spec, ELEMENTWISE[hp.net.loss_spec.name]
    if hp.algorithm.clip_vloss:
        value_loss = clipped_value(value, batch.value, batch.target, clip, elementwise)
    else:
        value_loss = elementwise(value - batch.target)
    policy_loss = weighted_mean(clipped_surrogate(log_ratio, batch.advantage, clip), batch.weight)
    total, logs = on_policy.weigh(policy, policy_loss, value_loss, batch, hp)
    # (rho - 1) - log rho estimates the KL divergence without bias and is never negative (Schulman 2020).
    logs["approx_kl"] = weighted_mean(jnp.expm1(log_ratio) - log_ratio, batch.weight)
    clipped = jnp.abs(jnp.expm1(log_ratio)) > clip
    logs["clip_fraction"] = weighted_mean(clipped.astype(jnp.float32), batch.weight)
    return total, logs


make = partial(on_policy.make, loss=loss, minibatched=True)
PPO = Algorithm(PPOKeys, make, EVERY_ACTION, ("OnPolicyBatchReplay",), unread=TARGET_KEYS)
