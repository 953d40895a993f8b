"""A policy without a value function beside it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from slmjax.nets.build import build
from slmjax.nets.keys import NetKeys
from slmjax.policies.distributions import ActionHead
from slmjax.policies.masks import masking
from slmjax.types import Key, PyTree, Space, Tail


class Actor(NamedTuple):
    """Pure functions of a policy over its parameters.

    Attributes:
        init: `(key, spec) -> params`; `spec` is `hp.net` of the moment.
        policy: `(params, obs [..., obs]) -> distribution`.
    """

    init: Callable[[Key, Any], PyTree]
    policy: Callable[[PyTree, PyTree], Any]


def build_actor(spec: NetKeys, observation_space: Space, head: ActionHead, action_shape: Any) -> Actor:
    """The network that a spec describes, with one tail for the distribution.

    Raises:
        SpecError: unknown names, or a mask of valid actions that does not fit.
    """
    net, mask = build(spec, observation_space, (Tail(head.width, "actor"),)), masking(observation_space, head.choices)

    def init(rng: Key, spec: NetKeys) -> PyTree:
        params = {"actor": net.init(rng, spec)}
        if head.log_std:
            params["log_std"] = jnp.full(action_shape, spec.log_std_init, jnp.float32)
        return params

    def policy(params: PyTree, obs: PyTree) -> Any:
        (output,), _ = net.apply(params["actor"], obs, ())
        return head.distribution(mask(output, obs), params.get("log_std"))

    return Actor(init, policy)
