"""A policy without a value function beside it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from slmjax.nets.build import build
from slmjax.nets.keys import NetKeys
from slmjax.nets.unroll import unroll
from slmjax.policies.heads import ActionHead
from slmjax.policies.masks import masking
from slmjax.types import Array, Key, PyTree, Space, SpecError, Tail


class Actor(NamedTuple):
    """Pure functions of a policy over its parameters; the carry is `()` where the network has none.

    Attributes:
        init: `(key, spec) -> params`; `spec` is `hp.net` of the moment.
        step: `(params, obs [E, ...], carry) -> (distribution, carry)`, one step.
        unroll: `(params, obs [T, E, ...], carry [E, ...], ended [T, E]) -> distribution`, over time, as
            `nets.unroll.unroll` does it.
        carry: `(num_envs) -> carry` of a fresh episode.
    """

    init: Callable[[Key, Any], PyTree]
    step: Callable[[PyTree, PyTree, PyTree], tuple[Any, PyTree]]
    unroll: Callable[[PyTree, PyTree, PyTree, Array], Any]
    carry: Callable[[int], PyTree]


def build_actor(spec: NetKeys, observation_space: Space, head: ActionHead, action_shape: Any) -> Actor:
    """The network that a spec describes, with one tail for the distribution.

    Raises:
        SpecError: unknown names, a dueling network, or a mask of valid actions that does not fit.
    """
    if str(getattr(spec, "type", "")).startswith("Dueling"):
        raise SpecError(f"expected a plain network, got {spec.type}: there is no critic to duel.", "agent.net.type")  # type: ignore[attr-defined]
    net = build(spec, observation_space, (Tail(head.width, "actor"),), recurrent=True)
    mask = masking(observation_space, head.choices)

    def init(rng: Key, spec: NetKeys) -> PyTree:
        params = {"actor": net.init(rng, spec)}
        if head.log_std:
            params["log_std"] = jnp.full(action_shape, spec.log_std_init, jnp.float32)
        return params

    def read(params: PyTree, output: Array, obs: PyTree) -> Any:
        return head.distribution(mask(output, obs), params.get("log_std"))

    def step(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[Any, PyTree]:
        (output,), carry = net.apply(params["actor"], obs, carry)
        return read(params, output, obs), carry

    def over_time(params: PyTree, obs: PyTree, carry: PyTree, ended: Array) -> Any:
        (output,), _ = unroll(net, params["actor"], obs, carry, ended)
        return read(params, output, obs)

    return Actor(init, step, over_time, net.carry)
