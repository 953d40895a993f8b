"""One gradient step: the only place where a loss is differentiated, its gradient's norm taken, and parameters moved."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from slmjax.nets.batch_renorm import keep_statistics
from slmjax.types import Array, PyTree

Logs = dict[str, Array]


class Learned(NamedTuple):
    """What a gradient step changes."""

    params: PyTree
    opt_state: PyTree


def begin(params: PyTree, optimizer: optax.GradientTransformation) -> Learned:
    """Parameters before the first step."""
    return Learned(params, optimizer.init(params))


def descent(
    loss: Callable[..., tuple[Array, Any]], optimizer: optax.GradientTransformation, *, statistics: bool = False
) -> Callable[..., tuple[Learned, Logs]]:
    """`step(learned, *batch) -> (learned, logs)`: one step of an optimiser down the gradient of a loss.

    Args:
        loss: `(params, *batch) -> (loss, logs)`; with `statistics`, `(params, *batch) -> (loss, (logs, params))`, whose
            parameters hold the statistics of networks that `Net.learn` moved.
        optimizer: built from the current hyperparameters, which may be traced.
        statistics: see above.

    Returns:
        `step`, whose logs are those of the loss, `loss` itself, and `grad_norm`, the norm of the gradient over all
        parameters before it is clipped.
    """

    def step(learned: Learned, *batch: Any) -> tuple[Learned, Logs]:
        (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(learned.params, *batch)
        logs, moved = found if statistics else (found, learned.params)
        updates, opt_state = optimizer.update(gradient, learned.opt_state, moved)
        params = optax.apply_updates(moved, updates)
        params = keep_statistics(params, moved) if statistics else params
        return Learned(params, opt_state), {"loss": value, "grad_norm": optax.tree.norm(gradient), **logs}

    return step


def each(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser for parameters `[N, ...]` of `N` networks, each with a state and a norm of its own."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))
