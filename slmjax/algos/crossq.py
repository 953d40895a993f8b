"""CrossQ (Bhatt et al. 2024): soft actor-critic without target networks, by batch-normalised critics.

    a' ~ pi(. | s')
    Q_i(s, a), Q_i(s', a') = one pass of critic i over both batches, in training mode: normalised by their mixture
    critics descend  ( r + gamma (1 - terminated) [min_i Q_i(s', a') - alpha log pi(a' | s')] - Q_i(s, a) )^2
    at every `policy_delay`-th: actor and temperature as in soft actor-critic, with the critics in inference mode

A critic that is normalised by the statistics of (s, a) alone has never seen inputs like (s', a'), and without a target
network it diverges there; the joint pass is what makes the target network unnecessary.
"""

from typing import Any

import jax
import jax.numpy as jnp

from slmjax.algos import sac
from slmjax.learners.descent import Logs
from slmjax.learners.off_policy import Draws, soft_value, td_loss
from slmjax.memory.replay import Batch
from slmjax.nets.critics import Critics
from slmjax.nets.keys import POLICY_GRADIENT_KEYS, TARGET_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, Algorithm, Array, PyTree, SpecError, VectorEnv


@hyper
class CrossQKeys(sac.SACKeys):
    """`agent.algorithm` of name `CrossQ`; its networks have `batch_renorm: true`."""

    name: str = key(default="CrossQ", doc="name of the algorithm")
    policy_delay: int = key(default=3, doc="gradient steps of the critics for each one of the actor", low=1)


def joint_td_loss(
    critics: Critics, params: PyTree, targets: PyTree, draws_t: Draws, alpha: Any, batch: Batch, hp: HP
) -> tuple[Array, tuple[Logs, PyTree]]:
    """The critics' loss, bootstrapped from themselves in the pass that they are learned in.

    Discrete actions are no input, so their passes over `s` and `s'` are joined instead.
    """
    del targets
    both = lambda now, later: jax.tree.map(lambda x, y: jnp.concatenate([x, y]), now, later)  # noqa: E731
    # A ring keeps no successor of a terminated step: its own observation stands there.
    known = batch.discount_t > 0
    obs, weight = both(batch.obs, batch.final_obs), both(batch.weight, batch.weight * known)
    action = () if isinstance(draws_t.action, tuple) else both(critics.unit(batch.action), draws_t.action)
    values, learned = critics.learn(params, obs, action, weight)
    values_tm1, values_t = jnp.split(values, 2, 1)
    target = batch.r_t + batch.discount_t * soft_value(values_t, draws_t, alpha)
    value, logs = td_loss(critics.pick(values_tm1, batch.action), target, batch, hp)
    return value, (logs, learned)


def make(hp: HP, env: VectorEnv) -> Agent:
    """A soft actor-critic without target critics.

    Raises:
        SpecError: networks that the batch does not normalise; or see `sac.make`.
    """
    agent = sac.make(hp, env, critic_loss=joint_td_loss, target_critics=False)  # refuses networks that have no such key
    if not getattr(hp.net, "batch_renorm", False):
        raise SpecError(
            "expected true: without target networks, critics diverge unless each batch normalises them, got false.",
            "agent.net.batch_renorm",
        )
    return agent


UNREAD = POLICY_GRADIENT_KEYS + TARGET_KEYS
NET = {"batch_renorm": True}
CROSSQ = Algorithm(CrossQKeys, make, sac.ACTIONS, ("Replay",), unread=UNREAD, net=NET, only_for=sac.ONLY_FOR)
