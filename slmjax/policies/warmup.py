"""Random actions before learning begins, and what is played after."""

from collections.abc import Callable
from typing import Any

import jax

from slmjax.types import HP


def random_first(hp: HP, random: Callable[[], Any], play: Callable[[], Any]) -> Any:
    """`random()` before the frame `training_start_step`, `play()` from there on."""
    start = hp.algorithm.training_start_step
    return jax.lax.cond(hp.frame < start, random, play) if start else play()
