"""Action values Q(s, a) for algorithms with an actor: several critics side by side, and the actions that they see.

The critics of one agent are copies of one network with parameters of their own, stacked `[N, ...]` and run by `vmap`.
A continuous action goes in beside the observation, and one value comes out; for discrete actions the observation goes
in alone, and a value for each action comes out. Hence the last axis of a score, `K`: 1, or the number of actions.

Actors and critics see continuous actions in [-1, 1] (unit actions); the environment and the memory see those of the
space. `to_unit` and `from_unit` go between them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from slmjax.algos.losses import PUNISH, same_shape, weighted_mean
from slmjax.memory.replay import Batch
from slmjax.nets.batch_renorm import keep_statistics
from slmjax.nets.build import build
from slmjax.nets.optim import descend, net_optimizer, optimizer
from slmjax.policies.discrete import pick
from slmjax.types import HP, Array, Box, Dict, Discrete, Key, Net, PyTree, Space, SpecError, Tail


class Critics(NamedTuple):
    """`N` networks over one tree of parameters `[N, ...]`.

    Attributes:
        init: `(key, spec) -> params`; `spec` is `hp.net` of the moment.
        apply: `(params, obs [B, ...], unit action [B, ...]) -> scores [N, B, K]`; discrete actions are not looked at.
        learn: `(params, obs, unit action, weight [B]) -> (scores, params)`: as `apply`, where networks normalise by
            the batch (`Net.learn`) and return their new statistics; the same where they do not.
        unit: `(action [B, ...] as the memory holds it) -> unit action`.
        pick: `(scores [N, B, K], action [B, ...] as the memory holds it) -> [N, B]`, of the action that was played.
    """

    init: Callable[[Key, Any], PyTree]
    apply: Callable[[PyTree, PyTree, Any], Array]
    learn: Callable[[PyTree, PyTree, Any, Array], tuple[Array, PyTree]]
    unit: Callable[[Array], Array]
    pick: Callable[[Array, Array], Array]


def build_critics(spec: Any, observation_space: Space, action_space: Discrete | Box, number: int) -> Critics:
    """`number` critics as `spec` (`hp.net`) describes them.

    Raises:
        SpecError: unknown names, or actions that have no unit (see `check_bounds`).
    """
    if isinstance(action_space, Discrete):
        net = build(spec, observation_space, (Tail(action_space.n, "critic"),), True, statistics=True)
        see: Callable[[PyTree, Any], PyTree] = lambda obs, action: obs  # noqa: E731
        unit: Callable[[Array], Array] = lambda action: action  # noqa: E731
        read: Callable[[Array, Array], Array] = lambda q, action: pick(q, action[None])  # noqa: E731
    else:
        check_bounds(action_space)
        parts = observation_space.spaces if isinstance(observation_space, Dict) else {"obs": observation_space}
        place = "action" if "action" not in parts else "the unit action"  # beside the parts that the user has named
        inputs = Dict({**parts, place: Box(-1.0, 1.0, action_space.shape)})
        net = build(spec, inputs, (Tail(1, "critic"),), True, statistics=True)
        see = lambda obs, action: {**(obs if isinstance(obs, dict) else {"obs": obs}), place: action}  # noqa: E731
        unit = partial(to_unit, action_space)
        read = lambda q, action: q[..., 0]  # noqa: E731

    def init(rng: Key, spec: Any) -> PyTree:
        return jax.vmap(net.init, (0, None))(jax.random.split(rng, number), spec)

    def apply(params: PyTree, obs: PyTree, action: Any) -> Array:
        return jax.vmap(lambda one: net.apply(one, see(obs, action), ())[0][0])(params)

    def learn(params: PyTree, obs: PyTree, action: Any, weight: Array) -> tuple[Array, PyTree]:
        (scores,), params = jax.vmap(lambda one: learning(net)(one, see(obs, action), weight))(params)
        return scores, params

    return Critics(init, apply, learn, unit, read)


def learning(net: Net) -> Callable[[PyTree, PyTree, Array], tuple[tuple[Array, ...], PyTree]]:
    """`Net.learn`, or `apply` in its form for a network that has no statistics."""
    return net.learn or (lambda params, obs, weight: (net.apply(params, obs, ())[0], params))


def critic_optimizer(hp: HP) -> optax.GradientTransformation:
    """The optimiser of one critic: `critic_optim_spec`, or `optim_spec` where there is none."""
    own = hp.net.critic_optim_spec
    if own is None:
        return net_optimizer(hp.net)
    return optimizer(own, hp.net.clip_grad_val, "agent.net.critic_optim_spec")


def init_each(transformation: optax.GradientTransformation, params: PyTree) -> PyTree:
    """An optimiser state for each of `N` critics, `[N, ...]`."""
    return jax.vmap(transformation.init)(params)


def descend_each(
    transformation: optax.GradientTransformation, gradient: PyTree, opt_state: PyTree, learned: PyTree
) -> tuple[PyTree, PyTree]:
    """One optimiser step of each critic, whose gradient is clipped by its own norm: `(params, opt_state)`.

    `learned` are the parameters as `Critics.learn` gives them back; their statistics are kept.
    """
    params, opt_state = jax.vmap(partial(descend, transformation))(gradient, opt_state, learned)
    return keep_statistics(params, learned), opt_state


def td_loss(q_tm1: Array, target_tm1: Array, batch: Batch, hp: HP) -> tuple[Array, tuple[Array, Array]]:
    """The sum over the critics of the mean punished TD error; and what to report of it.

    Args:
        q_tm1: values of the played actions, `[N, B]`.
        target_tm1: what they should have been, `[B]`; no gradient goes through it.
        batch: gives the weight of each transition.
        hp: names the loss, `net.loss_spec`.

    Returns:
        The loss, and the size of the error of each transition `[B]` and the mean value, both means over the critics.
    """
    same_shape(q_tm1[0], target_tm1)
    error = jax.lax.stop_gradient(target_tm1) - q_tm1
    punished = jnp.sum(PUNISH[hp.net.loss_spec.name](error), 0) * batch.importance
    mean = weighted_mean(jnp.mean(q_tm1, 0), batch.weight)
    return weighted_mean(punished, batch.weight), (jnp.mean(jnp.abs(error), 0), mean)


def check_bounds(space: Box) -> None:
    """Refuses a space whose actions do not map onto [-1, 1].

    Raises:
        SpecError: whole numbers, or a bound that is infinite.
    """
    if not (space.bounded and jnp.issubdtype(space.dtype, jnp.floating)):
        raise SpecError(f"expected real actions between finite bounds, got {space}.", "agent.algorithm.name")


def to_unit(space: Box, action: Array) -> Array:
    """An action of a bounded space as numbers in [-1, 1]: -1 is the lower bound, 1 the upper."""
    return jnp.clip(2.0 * (action - space.low) / _span(space) - 1.0, -1.0, 1.0)


def from_unit(space: Box, unit: Array) -> Array:
    """The inverse of `to_unit`, in the dtype of the space."""
    stretched = space.low + 0.5 * (unit + 1.0) * _span(space)
    return jnp.clip(stretched, space.low, space.high).astype(space.dtype)  # rounding may step over a bound


def _span(space: Box) -> np.ndarray:
    return np.where(space.high > space.low, space.high - space.low, np.float32(1.0))
