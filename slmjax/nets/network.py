"""Networks by the name in their spec."""

from typing import Any

from slmjax import registry
from slmjax.types import Head, Net, Space, SpecError


def build(
    spec: Any,
    observation_space: Space,
    heads: tuple[Head, ...],
    critic: bool = False,
    *,
    recurrent: bool = False,
    statistics: bool = False,
) -> Net:
    """The network that `agent.net` describes.

    Args:
        spec: `hp.net`.
        observation_space: what it sees.
        heads: what it puts out.
        critic: whether it is the second of two.
        recurrent: the algorithm hands a carry from step to step.
        statistics: the algorithm learns by `Net.learn` where the network has it, and keeps what that moved.

    Raises:
        SpecError: the network's keys cannot work, or it needs what the algorithm does not do.
    """
    net: Net = registry.resolve("net", spec.type).build(spec, observation_space, heads, critic)
    if net.recurrent and not recurrent:
        raise SpecError(
            f"expected a feed-forward network, got {spec.type}: this algorithm hands no state from step to step.",
            "agent.net.type",
        )
    if not statistics and net.learn is not None:
        raise SpecError(
            "expected a network without running statistics, got batch_renorm: true: this algorithm would not move "
            "them. layer_norm, weight_norm and spectral_norm have none.",
            "agent.net.batch_renorm",
        )
    return net
