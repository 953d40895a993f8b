"""Masks of valid actions: what an environment forbids is never explored, never played, and has no probability.

The convention is that of RLlib and PettingZoo: the observation space is a `Dict` with the key `action_mask`, one entry
for each logit (`Discrete(n)`: `[n]`; `MultiDiscrete(nvec)`: `[sum(nvec)]`, side by side), above 0 where the action is
valid. A forbidden action's score is minus infinity, which is all that distributions, exploration and the maximum over
actions need to know. The network reads the mask too, as it reads the rest of the observation.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from slmjax.types import Array, Dict, PyTree, Space, SpecError

ACTION_MASK = "action_mask"


def masked(scores: Array, mask: Array, choices: tuple[int, ...] | None = None) -> Array:
    """`scores [..., A]` with minus infinity where `mask [..., A]` is not above 0.

    A choice that has no valid action left keeps all its scores: environments forbid everything where an episode ended,
    and the value of nothing would be minus infinity, times a discount of 0.

    Args:
        scores: logits, or values of actions.
        mask: bool or numbers.
        choices: how many neighbouring scores belong to each choice; None: all of them to one.
    """
    allowed = mask > 0
    parts = jnp.split(allowed, np.cumsum(choices)[:-1], -1) if choices else [allowed]
    usable = [part | ~jnp.any(part, -1, keepdims=True) for part in parts]
    return jnp.where(jnp.concatenate(usable, -1), scores, -jnp.inf)


def offered(observation_space: Space) -> bool:
    """Whether an environment says which actions are valid."""
    return isinstance(observation_space, Dict) and ACTION_MASK in observation_space.spaces


def masking(observation_space: Space, choices: tuple[int, ...]) -> Callable[[Array, PyTree], Array]:
    """`(scores [..., A], obs) -> scores`, masked by what the observation forbids; as they are where it has no mask.

    Args:
        observation_space: where to look for a mask.
        choices: how many scores each choice has (`ActionHead.choices`); `(n,)` for `Discrete(n)`.

    Raises:
        SpecError: the mask has not one entry for each score, or there is no choice to mask.
    """
    if not isinstance(observation_space, Dict) or not offered(observation_space):
        return lambda scores, obs: scores
    space: Any = observation_space.spaces[ACTION_MASK]
    if not choices:
        raise SpecError(
            f"its observations hold an {ACTION_MASK!r}, but only Discrete and MultiDiscrete actions can be masked.",
            "env.name",
        )
    if isinstance(space, Dict) or space.shape != (sum(choices),):
        raise SpecError(
            f"expected an {ACTION_MASK!r} of shape ({sum(choices)},), got {space}, which is what the network sees: "
            "agent.memory.stack_len joins frames of a mask as well.",
            "env.name",
        )
    return lambda scores, obs: masked(scores, obs[ACTION_MASK], choices)
