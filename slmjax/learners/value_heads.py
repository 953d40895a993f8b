"""What a network predicts of each action: its expected return (here), or a distribution (`c51.py`, `qrdqn.py`).

All of them put out `[B, A, N]`, `N` numbers for each action.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slmjax.maths.losses import ELEMENTWISE, q_target, td_error
from slmjax.types import HP, Array


class ValueHead(NamedTuple):
    """How action values are read from a network's output, and its loss.

    Attributes:
        width: `N`, the numbers that stand for one action.
        q: `(output [..., A, N], hp) -> [..., A]`, the expected return of each action.
        loss: `(output_tm1 [B, A, N], a_tm1 [B], r_t [B], discount_t [B], output_t [B, A, N], policy_t [B, A], hp) ->
            (loss [B], error [B])`. The target of the prediction for `a_tm1` is `r_t` plus `discount_t` times what is
            predicted for the next step, whose actions have the probabilities `policy_t`. `error` is the TD
            error, or what else a prioritized memory shall go by. No gradient reaches `output_t`.
    """

    width: int
    q: Callable[[Array, HP], Array]
    loss: Callable[..., tuple[Array, Array]]


def greedy_policy(scores: Array) -> Array:
    """Probability 1 for the best action, `[..., A]`; the first one on a tie."""
    return jax.nn.one_hot(jnp.argmax(scores, -1), scores.shape[-1])


def of_action(output: Array, action: Array) -> Array:
    """What is predicted for the actions taken: `[B, A, N]` and `[B]` to `[B, N]`."""
    # A gather of rows: the sum of `arrays.pick` would make QR-DQN read and write a third more.
    return jnp.take_along_axis(output, action[:, None, None], 1)[:, 0]


def _expected_loss(
    output_tm1: Array, a_tm1: Array, r_t: Array, discount_t: Array, output_t: Array, policy_t: Array, hp: HP
) -> tuple[Array, Array]:
    target_tm1 = q_target(r_t, discount_t, output_t[..., 0], policy_t)
    error = td_error(output_tm1[..., 0], a_tm1, target_tm1)
    return ELEMENTWISE[hp.net.loss_spec.name](error), error


EXPECTED = ValueHead(1, lambda output, hp: output[..., 0], _expected_loss)
