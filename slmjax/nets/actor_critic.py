"""A policy, alone or with a value function: separate networks, or two heads of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.nets.keys import NetKeys
from slmjax.nets.network import build
from slmjax.nets.optim import critic_optimizer, net_optimizer
from slmjax.nets.unroll import steps, unroll, unroll_transitions
from slmjax.policies.heads import ActionHead
from slmjax.policies.masks import masking
from slmjax.types import Array, Head, Key, Net, PyTree, Space, SpecError


class ActorCritic(NamedTuple):
    """Pure functions of a policy and a value function over one tree of parameters; `value` is None without a critic.

    Attributes:
        init: `(key, spec) -> params`; `spec` is the current `hp.net`.
        carry: `(num_envs) -> carry` of a fresh episode: a dict by part (`actor`, `critic`), or `()`.
        recurrent: whether there is a carry.
        step: `(params, obs [..., obs], carry) -> (distribution, value [...], carry)`, one step.
        unroll: `(params, obs [T, E, ...], carry [E, ...], resets [T, E]) -> (distribution, value, carry)`, over time as
            `nets.unroll.unroll` does it.
        values: `(params, obs, final_obs, carry, resets) -> (value, value of final_obs)`, over time as
            `nets.unroll.unroll_transitions` does it.
    """

    init: Callable[[Key, Any], PyTree]
    carry: Callable[[int], PyTree]
    recurrent: bool
    step: Callable[[PyTree, PyTree, PyTree], tuple[Any, Any, PyTree]]
    unroll: Callable[..., tuple[Any, Any, PyTree]]
    values: Callable[..., tuple[Array, Array]]


def build_actor_critic(
    spec: NetKeys, observation_space: Space, head: ActionHead, action_space: Any, *, critic: bool, recurrent: bool
) -> ActorCritic:
    """The networks that a spec describes: a policy, and a `critic`; `recurrent` where the algorithm hands a carry on.

    Where observations hold a mask of valid actions, the policy keeps to it.

    Raises:
        SpecError: unknown names, a critic's keys together with `shared: true`, a mask that does not fit, a dueling
            network without a critic, or a recurrent one where the algorithm has no use for it.
    """
    mask = masking(observation_space, head.choices)
    net = _joined(spec, observation_space, Head(head.width, "actor"), critic, recurrent)

    def init(rng: Key, spec: NetKeys) -> PyTree:
        params = net.init(rng, spec)
        if head.log_std:
            params["log_std"] = jnp.full(action_space.shape, spec.log_std_init, jnp.float32)
        return params

    def read(params: PyTree, outputs: tuple[Array, ...], obs: PyTree) -> tuple[Any, Any]:
        policy = head.distribution(mask(outputs[0], obs), params.get("log_std"))
        return policy, outputs[1][..., 0] if critic else None

    def step(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[Any, Any, PyTree]:
        outputs, carry = net.apply(params, obs, carry)
        return *read(params, outputs, obs), carry

    def over_time(params: PyTree, obs: PyTree, carry: PyTree, resets: Array) -> tuple[Any, Any, PyTree]:
        outputs, carry = unroll(net, params, obs, carry, resets)
        return *read(params, outputs, obs), carry

    def values(params: PyTree, obs: PyTree, final_obs: PyTree, carry: PyTree, resets: Array) -> tuple[Array, Array]:
        (_, value), (_, final), _ = unroll_transitions(net, params, obs, final_obs, carry, resets)
        return value[..., 0], final[..., 0]

    return ActorCritic(init, net.carry, net.recurrent, step, over_time, values)


def _joined(spec: Any, space: Space, policy: Head, critic: bool, recurrent: bool) -> Net:
    """One network with the outputs (policy, value), over parameters and carries by part."""
    if not critic and spec.type.startswith("Dueling"):
        raise SpecError(f"expected a plain network, got {spec.type}: there is no critic to duel.", "agent.net.type")
    shared, value = critic and spec.shared, Head(1, "critic")
    for name in ("critic_hid_layers", "critic_optim_spec") if shared else ():
        if getattr(spec, name, None) is not None:
            raise SpecError("expected no value of its own while `shared: true`.", f"agent.net.{name}")
    parts = {"actor": build(spec, space, (policy, value) if shared else (policy,), recurrent=recurrent)}
    if critic and not shared:
        parts["critic"] = build(spec, space, (value,), critic=True, recurrent=recurrent)

    def init(rng: Key, spec: NetKeys) -> PyTree:
        keys = jax.random.split(rng) if critic else (rng,)
        return {name: net.init(key, spec) for key, (name, net) in zip(keys, parts.items(), strict=False)}

    def carry(num_envs: int) -> PyTree:
        fresh = {name: net.carry(num_envs) for name, net in parts.items()}
        return fresh if jax.tree.leaves(fresh) else ()

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        done = {name: net.apply(params[name], obs, carry[name] if carry else ()) for name, net in parts.items()}
        outputs = tuple(x for out, _ in done.values() for x in out)
        return outputs, {name: left for name, (_, left) in done.items()} if carry else ()

    def over_time(params: PyTree, obs: PyTree, carry: PyTree, resets: Array) -> tuple[Any, PyTree, PyTree]:
        done = {name: steps(net, params[name], obs, carry[name], resets) for name, net in parts.items()}
        outputs = tuple(x for out, _, _ in done.values() for x in out)
        reached, last = ({name: done[name][i] for name in parts} for i in (1, 2))
        return outputs, reached, last

    return Net(init, apply, carry, unroll=over_time)


def actor_critic_optimizer(spec: NetKeys) -> optax.GradientTransformation:
    """One optimiser for all parameters, or a second one for the critic where `critic_optim_spec` is given.

    With two optimisers, the norm that `clip_grad_val` limits is that of each part.
    """
    if spec.critic_optim_spec is None:
        return net_optimizer(spec)
    parts = {"actor": net_optimizer(spec), "critic": critic_optimizer(spec)}
    return optax.partition(parts, lambda params: {k: "critic" if k == "critic" else "actor" for k in params})
