"""A policy and a value function: separate networks, or two tails of one; with a carry where they are recurrent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.nets.build import build
from slmjax.nets.keys import NetKeys
from slmjax.nets.optim import optimizer
from slmjax.nets.unroll import steps, unroll, unroll_transitions
from slmjax.policies.heads import ActionHead
from slmjax.policies.masks import masking
from slmjax.types import Array, Key, Net, PyTree, Space, SpecError, Tail


class ActorCritic(NamedTuple):
    """Pure functions of a policy and a value function over one tree of parameters.

    The first four are all that feed-forward networks need. The others hand a carry on, which is `()` for those, so an
    algorithm written with them works with every network.

    Attributes:
        init: `(key, spec) -> params`; `spec` is `hp.net` of the moment.
        policy: `(params, obs [..., obs]) -> distribution`.
        value: `(params, obs [..., obs]) -> [...]`.
        both: `(params, obs) -> (distribution, value)`, in one pass where the layers are shared.
        carry: `(num_envs) -> carry` of a fresh episode: a dict by part (`actor`, `critic`), or `()`.
        step: `(params, obs [E, ...], carry) -> (distribution, value, carry)`: both, one step.
        unroll: `(params, obs [T, E, ...], carry [E, ...], ended [T, E]) -> (distribution, value, carry)`: both, over
            time, as `nets.unroll.unroll` does it.
        unroll_transitions: `(params, obs, final_obs, carry, ended) -> (distribution, value, value of final_obs,
            carry)`: with what to bootstrap from.
    """

    init: Callable[[Key, Any], PyTree]
    policy: Callable[[PyTree, PyTree], Any]
    value: Callable[[PyTree, PyTree], Array]
    both: Callable[[PyTree, PyTree], tuple[Any, Array]]
    carry: Callable[[int], PyTree]
    step: Callable[[PyTree, PyTree, PyTree], tuple[Any, Array, PyTree]]
    unroll: Callable[..., tuple[Any, Array, PyTree]]
    unroll_transitions: Callable[..., tuple[Any, Array, Array, PyTree]]


def build_actor_critic(
    spec: NetKeys, observation_space: Space, head: ActionHead, action_shape: Any, *, recurrent: bool = False
) -> ActorCritic:
    """The networks that a spec describes; `recurrent` where the algorithm hands a carry on.

    Where observations hold a mask of valid actions, the policy keeps to it.

    Raises:
        SpecError: unknown names, a critic's keys together with `shared: true`, a mask that does not fit, or a
            recurrent network where the algorithm has no use for it.
    """
    mask = masking(observation_space, head.choices)
    net = _joined(spec, observation_space, Tail(head.width, "actor"), Tail(1, "critic"), recurrent)

    def init(rng: Key, spec: NetKeys) -> PyTree:
        params = net.init(rng, spec)
        if head.log_std:
            params["log_std"] = jnp.full(action_shape, spec.log_std_init, jnp.float32)
        return params

    def read(params: PyTree, outputs: tuple[Array, ...], obs: PyTree) -> tuple[Any, Array]:
        return head.distribution(mask(outputs[0], obs), params.get("log_std")), outputs[1][..., 0]

    def both(params: PyTree, obs: PyTree) -> tuple[Any, Array]:
        return step(params, obs, ())[:2]

    def policy(params: PyTree, obs: PyTree) -> Any:
        return both(params, obs)[0]

    def value(params: PyTree, obs: PyTree) -> Array:
        return both(params, obs)[1]

    def step(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[Any, Array, PyTree]:
        outputs, carry = net.apply(params, obs, carry)
        return (*read(params, outputs, obs), carry)

    def over_time(params: PyTree, obs: PyTree, carry: PyTree, ended: Array) -> tuple[Any, Array, PyTree]:
        outputs, carry = unroll(net, params, obs, carry, ended)
        return (*read(params, outputs, obs), carry)

    def transitions(
        params: PyTree, obs: PyTree, final_obs: PyTree, carry: PyTree, ended: Array
    ) -> tuple[Any, Array, Array, PyTree]:
        outputs, successors, carry = unroll_transitions(net, params, obs, final_obs, carry, ended)
        return (*read(params, outputs, obs), successors[1][..., 0], carry)

    return ActorCritic(init, policy, value, both, net.carry, step, over_time, transitions)


def _joined(spec: NetKeys, space: Space, policy_tail: Tail, value_tail: Tail, recurrent: bool) -> Net:
    """One network with the outputs (policy, value), over parameters and carries by part."""
    if spec.shared:
        for name in ("critic_hid_layers", "critic_optim_spec"):
            if getattr(spec, name, None) is not None:
                raise SpecError("expected no value of its own while `shared: true`.", f"agent.net.{name}")
        parts = {"actor": build(spec, space, (policy_tail, value_tail), recurrent=recurrent)}
    else:
        actor = build(spec, space, (policy_tail,), recurrent=recurrent)
        parts = {"actor": actor, "critic": build(spec, space, (value_tail,), critic=True, recurrent=recurrent)}

    def init(rng: Key, spec: NetKeys) -> PyTree:
        return {
            name: net.init(key, spec) for key, (name, net) in zip(jax.random.split(rng), parts.items(), strict=False)
        }

    def carry(num_envs: int) -> PyTree:
        fresh = {name: net.carry(num_envs) for name, net in parts.items()}
        return fresh if jax.tree.leaves(fresh) else ()

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        done = {name: net.apply(params[name], obs, carry[name] if carry else ()) for name, net in parts.items()}
        outputs = tuple(x for out, _ in done.values() for x in out)
        return outputs, {name: left for name, (_, left) in done.items()} if carry else ()

    def over_time(params: PyTree, obs: PyTree, carry: PyTree, ended: Array) -> tuple[tuple[Array, ...], PyTree, PyTree]:
        done = {name: steps(net, params[name], obs, carry[name], ended) for name, net in parts.items()}
        outputs = tuple(x for out, _, _ in done.values() for x in out)
        reached, last = ({name: done[name][i] for name in parts} for i in (1, 2))
        return outputs, reached, last

    return Net(init, apply, carry, unroll=over_time)


def actor_critic_optimizer(spec: NetKeys) -> optax.GradientTransformation:
    """One optimiser for all parameters, or a second one for the critic where `critic_optim_spec` is given.

    With two optimisers, the norm that `clip_grad_val` limits is that of each part.
    """
    if spec.critic_optim_spec is None:
        return optimizer(spec.optim_spec, spec.clip_grad_val)
    parts = {
        "actor": optimizer(spec.optim_spec, spec.clip_grad_val),
        "critic": optimizer(spec.critic_optim_spec, spec.clip_grad_val, "agent.net.critic_optim_spec"),
    }
    return optax.partition(parts, lambda params: {k: "critic" if k == "critic" else "actor" for k in params})
