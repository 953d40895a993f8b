"""Values of discrete actions: `N` numbers for each, with a carry where the network is recurrent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.nets.network import build
from slmjax.nets.unroll import unroll, unroll_transitions
from slmjax.types import Array, Head, Key, Net, PyTree, Space


class ActionValues(NamedTuple):
    """Pure functions of one network. Over time, a feed-forward one takes any leading axes and looks at no carry.

    Attributes:
        init: `(key, spec) -> params`; `spec` is the current `hp.net`.
        step: `(params, obs [E, ...], carry) -> (output [E, A, N], carry)`.
        unroll: `(params, obs, carry, ended) -> output [T, E, A, N]` over time, as `nets.unroll.unroll` does it.
        transitions: `(params, obs, final_obs, carry, ended, burn_in=0) -> (output, output of final_obs)`:
            `[T, E, A, N]` over time as `nets.unroll.unroll_transitions` does it; no gradient comes from the first
            `burn_in` steps.
        carry: `(num_envs) -> carry` of a fresh episode; `()` for a feed-forward network.
        recurrent: whether there is a carry.
    """

    init: Callable[[Key, Any], PyTree]
    step: Callable[[PyTree, PyTree, PyTree], tuple[Array, PyTree]]
    unroll: Callable[..., Array]
    transitions: Callable[..., tuple[Array, Array]]
    carry: Callable[[int], PyTree]
    recurrent: bool


def build_action_values(spec: Any, observation_space: Space, actions: int, width: int = 1) -> ActionValues:
    """The network that `spec` describes, with `width` numbers for each of `actions`.

    Raises:
        SpecError: see `nets.network.build`.
    """
    net: Net = build(spec, observation_space, (Head(actions * width, "critic", actions),), recurrent=True)

    def per_action(output: Array) -> Array:
        return output.reshape(*output.shape[:-1], actions, width)

    def step(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[Array, PyTree]:
        (output,), carry = net.apply(params, obs, carry)
        return per_action(output), carry

    def over_time(params: PyTree, obs: PyTree, carry: PyTree, ended: Any) -> Array:
        (output,), _ = unroll(net, params, obs, carry, ended)
        return per_action(output)

    def transitions(
        params: PyTree, obs: PyTree, final_obs: PyTree, carry: PyTree, ended: Any, burn_in: int = 0
    ) -> tuple[Array, Array]:
        steps = (obs, final_obs, ended)
        warm: list[PyTree] = []
        if net.recurrent and burn_in:
            first, steps = jax.tree.map(lambda x: x[:burn_in], steps), jax.tree.map(lambda x: x[burn_in:], steps)
            fixed = jax.lax.stop_gradient(params)
            *warm, carry = unroll_transitions(net, fixed, first[0], first[1], carry, first[2])
        *outputs, _ = unroll_transitions(net, params, steps[0], steps[1], carry, steps[2])
        joined = outputs if not warm else jax.tree.map(lambda a, b: jnp.concatenate([a, b]), warm, outputs)
        (here,), (there,) = joined
        return per_action(here), per_action(there)

    return ActionValues(net.init, step, over_time, transitions, net.carry, net.recurrent)
