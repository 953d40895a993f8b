"""Networks by the name in their spec."""

from typing import Any

import jax

from slmjax import registry
from slmjax.types import Net, PyTree, Space, SpecError, Tail


def build(spec: Any, observation_space: Space, tails: tuple[Tail, ...], critic: bool = False) -> Net:
    """The network that `agent.net` describes; `critic` is True for the second of two.

    Raises:
        SpecError: the network's keys cannot work.
    """
    net: Net = registry.resolve("net", spec.type).build(spec, observation_space, tails, critic)
    if jax.tree.leaves(net.carry(1)):
        raise SpecError(
            f"{spec.type} carries a state from step to step, which no algorithm uses yet.", "agent.net.type"
        )
    return net


def param_count(params: PyTree) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
