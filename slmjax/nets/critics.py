"""Action values Q(s, a) for algorithms with an actor: several critics side by side, and the actions that they see.

The critics of one agent are copies of one network with parameters of their own, stacked `[N, ...]` and run by `vmap`.
A continuous action goes in with the observation, and one value comes out; for discrete actions the observation goes
in alone, and a value for each action comes out. Hence the last axis of their values, `K`: 1, or the number of actions.

Actors and critics see continuous actions in [-1, 1] (unit actions); the environment and the memory see those of the
space.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.maths.arrays import pick
from slmjax.nets.network import build
from slmjax.policies.continuous import to_unit
from slmjax.types import Array, Box, Dict, Discrete, Head, Key, Net, PyTree, Space, SpecError


class Critics(NamedTuple):
    """`N` networks over one tree of parameters `[N, ...]`.

    Attributes:
        init: `(key, spec) -> params`; `spec` is the current `hp.net`.
        apply: `(params, obs [B, ...], unit action [B, ...]) -> values [N, B, K]`; discrete actions are not looked at.
        learn: `(params, obs, unit action, weight [B]) -> (values, params)`: as `apply`, where networks normalise by
            the batch (`Net.learn`) and return their new statistics; the same where they do not.
        unit: `(action [B, ...] as the memory holds it) -> unit action`.
        pick: `(values [N, B, K], action [B, ...] as the memory holds it) -> [N, B]`, of the action that was played.
    """

    init: Callable[[Key, Any], PyTree]
    apply: Callable[[PyTree, PyTree, Any], Array]
    learn: Callable[[PyTree, PyTree, Any, Array], tuple[Array, PyTree]]
    unit: Callable[[Array], Array]
    pick: Callable[[Array, Array], Array]


def build_critics(spec: Any, observation_space: Space, action_space: Discrete | Box, number: int) -> Critics:
    """`number` critics as `spec` (`hp.net`) describes them.

    Raises:
        SpecError: unknown names, or actions that have no unit: whole numbers, or a bound that is infinite.
    """
    if isinstance(action_space, Discrete):
        net = build(spec, observation_space, (Head(action_space.n, "critic"),), True, statistics=True)
        see: Callable[[PyTree, Any], PyTree] = lambda obs, action: obs  # noqa: E731
        unit: Callable[[Array], Array] = lambda action: action  # noqa: E731
        read: Callable[[Array, Array], Array] = lambda q, action: pick(q, action[None])  # noqa: E731
    else:
        low, high = action_space.low, action_space.high
        if not (action_space.bounded and jnp.issubdtype(action_space.dtype, jnp.floating)):
            raise SpecError(f"expected real actions between finite bounds, got {action_space}.", "agent.algorithm.name")
        parts = observation_space.spaces if isinstance(observation_space, Dict) else {"obs": observation_space}
        place = "action" if "action" not in parts else "the unit action"  # unless the user has a part of that name
        inputs = Dict({**parts, place: Box(-1.0, 1.0, action_space.shape)})
        net = build(spec, inputs, (Head(1, "critic"),), True, statistics=True)
        see = lambda obs, action: {**(obs if isinstance(obs, dict) else {"obs": obs}), place: action}  # noqa: E731
        unit = lambda action: to_unit(action, low, high)  # noqa: E731
        read = lambda q, action: q[..., 0]  # noqa: E731

    def init(rng: Key, spec: Any) -> PyTree:
        return jax.vmap(net.init, (0, None))(jax.random.split(rng, number), spec)

    def apply(params: PyTree, obs: PyTree, action: Any) -> Array:
        return jax.vmap(lambda one: net.apply(one, see(obs, action), ())[0][0])(params)

    def learn(params: PyTree, obs: PyTree, action: Any, weight: Array) -> tuple[Array, PyTree]:
        (values,), params = jax.vmap(lambda one: learning(net)(one, see(obs, action), weight))(params)
        return values, params

    return Critics(init, apply, learn, unit, read)


def learning(net: Net) -> Callable[[PyTree, PyTree, Array], tuple[tuple[Array, ...], PyTree]]:
    """`Net.learn`, or `apply` in its form for a network that has no statistics."""
    return net.learn or (lambda params, obs, weight: (net.apply(params, obs, ())[0], params))
