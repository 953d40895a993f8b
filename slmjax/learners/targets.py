"""How a target network tracks the online network, by `update_type`.

`polyak` moves it by `polyak_coef` after every gradient step (Lillicrap et al. 2016), however many an update takes;
`replace` sets it after an update in which a multiple of `update_frequency` frames was passed (Mnih et al. 2015).
"""

import jax.numpy as jnp
import optax

from slmjax.maths.arrays import where
from slmjax.types import HP, Array, PyTree


def after_step(target: PyTree, params: PyTree, hp: HP, due: Array | bool = True) -> PyTree:
    """The target network after one gradient step; it moves at those that are `due`."""
    if hp.net.update_type == "replace":
        return target
    return optax.incremental_update(params, target, jnp.where(due, hp.net.polyak_coef, 0.0))


def after_update(target: PyTree, params: PyTree, hp: HP, frames: int) -> PyTree:
    """The target network after an update from a rollout of `frames`."""
    if hp.net.update_type == "polyak":
        return target
    period = hp.net.update_frequency
    return where((hp.frame + frames) // period > hp.frame // period, params, target)
