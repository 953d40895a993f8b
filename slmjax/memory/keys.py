"""The memory keys that every agent reads, with a memory of any kind."""

from typing import Any

import jax.numpy as jnp

from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Rollout


@hyper
class MemoryKeys:
    """Keys of every memory; a memory's own dataclass extends this one."""

    name: str = key(default="", doc="name of the memory")
    stack_len: int = key(default=1, doc="frames that the network sees at once", low=1)
    stack_op: str = key(
        default="stack",
        doc="how frames are joined, the oldest first: on a new last axis, or along the last one",
        choices=("stack", "concat"),
    )
    reward_op: str = key(default="none", doc="sign: learn from the signs of rewards", choices=("none", "sign"))


@hyper
class OnPolicyReplay(MemoryKeys):
    """`agent.memory` of PPO and its kin: the rollout itself, `[T, E, ...]`, learned from once and dropped."""

    name: str = key(default="OnPolicyBatchReplay", doc="name of the memory")


def learned_reward(spec: Any, rollout: Rollout) -> Array:
    """The rewards that an agent learns from, by `reward_op`; what is reported stays raw.

    A row that a suite invented has none: weighed by 0, a NaN would still be one in every gradient.
    """
    reward = jnp.where(rollout.valid, rollout.reward, 0.0)
    return jnp.sign(reward) if isinstance(spec, MemoryKeys) and spec.reward_op == "sign" else reward
