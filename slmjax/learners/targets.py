"""How a target network follows the one that learns, by `update_type`, `update_frequency` and `polyak_coef`."""

from typing import Any

import jax.numpy as jnp
import optax

from slmjax.maths.arrays import where
from slmjax.types import HP, Array, PyTree


def follow_frames(target: PyTree, params: PyTree, hp: HP, frames: int) -> PyTree:
    """The target network after an update that took `frames`: both types wait for frames.

    It moves once for each multiple of `update_frequency` that was passed: `k` polyak updates towards the same
    parameters leave `(1 - polyak_coef)^k` of the old ones.
    """
    period = hp.net.update_frequency
    moves = (hp.frame + frames) // period - hp.frame // period
    left = 0.0 if hp.net.update_type == "replace" else 1.0 - hp.net.polyak_coef
    return optax.incremental_update(params, target, 1.0 - left**moves)


def follow_steps(target: PyTree, params: PyTree, hp: HP, frames: int, last: Any, due: Array | bool = True) -> PyTree:
    """The target network after one gradient step of an update that takes `frames`.

    `polyak` moves it by `polyak_coef` after each step that is `due`; `replace` sets it after the `last` step of an
    update in which a multiple of `update_frequency` frames was passed. `polyak` does not wait for frames: its
    coefficient is a rate per gradient step in all papers, however many steps an update takes.
    """
    if hp.net.update_type == "polyak":
        return optax.incremental_update(params, target, jnp.where(due, hp.net.polyak_coef, 0.0))
    period = hp.net.update_frequency
    passed = last & ((hp.frame + frames) // period > hp.frame // period)
    return where(passed, params, target)
