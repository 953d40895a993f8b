"""QR-DQN: quantiles of the return of each action (Dabney et al. 2018).

    theta(s, a): `n_quantiles` returns, each of probability 1 / n_quantiles;  Q(s, a) = their mean
    target: samples  r + gamma (1 - terminated) theta_target(s', a*)
    loss:   quantile Huber loss of theta(s, a) at the levels (2 i - 1) / 2 N against them

Everything else is that of `learners/q_learning.py`. With `double` the online network chooses `a*`. A prioritized memory
goes by the loss.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slmjax.algos.dqn import DistributionalKeys, make_distributional
from slmjax.learners.value_heads import ValueHead, of_action
from slmjax.maths.losses import q_target
from slmjax.maths.value_distributions import midpoints, quantile_huber
from slmjax.nets.keys import ACTOR_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array, Discrete


@hyper
class QRDQNKeys(DistributionalKeys):
    """`agent.algorithm` of name `QRDQN`."""

    name: str = key(default="QRDQN", doc="name of the algorithm")
    n_quantiles: int = key(default=51, doc="quantiles that a distribution is made of", low=1)
    kappa: float = key(default=1.0, doc="error up to which the loss is quadratic; 0: plain quantile regression", low=0)


def quantiles(n_quantiles: int) -> ValueHead:
    """The head whose output is `n_quantiles` returns for each action."""

    def q(output: Array, hp: HP) -> Array:
        del hp
        return jnp.mean(output, -1)

    def loss(
        output_tm1: Array, a_tm1: Array, r_t: Array, discount_t: Array, output_t: Array, policy_t: Array, hp: HP
    ) -> tuple[Array, Array]:
        by_quantile = jax.vmap(q_target, (None, None, 2, None), 1)  # [B, A, N] -> [B, N]
        targets = jax.lax.stop_gradient(by_quantile(r_t, discount_t, output_t, policy_t))
        made = of_action(output_tm1, a_tm1)
        losses = quantile_huber(made, midpoints(n_quantiles), targets, hp.algorithm.kappa)
        return losses, losses

    return ValueHead(n_quantiles, q, loss)


make = partial(make_distributional, head=lambda alg: quantiles(alg.n_quantiles))
QRDQN = Algorithm(QRDQNKeys, make, (Discrete,), ("Replay",), unread=(*ACTOR_KEYS, "loss_spec"))
