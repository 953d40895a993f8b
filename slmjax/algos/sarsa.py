"""SARSA: on-policy temporal differences (Rummery & Niranjan 1994; Sutton & Barto 2018, section 6.4).

    act for `training_frequency` steps: epsilon-greedy on Q(s, .)
    descend once on  loss( r + gamma (1 - terminated) Q(s', a') - Q(s, a) ),  a' the action taken in s'

Within a rollout `a'` is the action of the next row. Where there is none it is drawn by the policy that acted: after the
last row, and where a time limit stopped the episode, whose next row belongs to another one. The draw after the last row
has the distribution of the action that a policy without this update would take, as in the textbook, where `a'` is
chosen before Q changes; holding that transition back for the action really taken would mix two policies in one batch
instead.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slmjax.learners import q_rollouts
from slmjax.learners.action_values import ActionValueKeys, explore
from slmjax.maths.losses import q_target
from slmjax.maths.returns import discounts
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array, Discrete, Key, Rollout


@hyper
class SARSAKeys(ActionValueKeys):
    """`agent.algorithm` of name `SARSA`."""

    name: str = key(default="SARSA", doc="name of the algorithm")
    training_frequency: int = key(default=8, doc="steps of each environment between two gradient steps", low=1)


def next_actions(action: Array, drawn: Array, ended: Array) -> Array:
    """The actions that follow those of a rollout, all `[T, E]`.

    `drawn` are draws of the policy at `final_obs`: they stand in where the next row is no next step.
    """
    following = jnp.concatenate([action[1:], drawn[-1:]])
    return jnp.where(ended, drawn, following)


def targets(q_t: Array, rollout: Rollout, rng: Key, hp: HP) -> Array:
    """`r + gamma (1 - terminated) Q(s', a')`, `[T, E]`."""
    a_t = next_actions(rollout.action, explore(q_t, rng, hp), rollout.ended)
    policy_t = jax.nn.one_hot(a_t, q_t.shape[-1])
    return q_target(rollout.reward, discounts(rollout.terminated, hp.algorithm.gamma), q_t, policy_t)


make = partial(q_rollouts.make, targets=targets)
SARSA = Algorithm(SARSAKeys, make, (Discrete,), ("OnPolicyBatchReplay",), unread=ACTOR_KEYS + TARGET_KEYS)
