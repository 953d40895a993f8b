"""A policy and a value function: separate networks, or two tails of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.nets.build import build
from slmjax.nets.keys import NetKeys
from slmjax.nets.optim import optimizer
from slmjax.policies.distributions import ActionHead
from slmjax.policies.masks import masking
from slmjax.types import Array, Key, PyTree, Space, SpecError, Tail


class ActorCritic(NamedTuple):
    """Pure functions of a policy and a value function over one tree of parameters.

    Attributes:
        init: `(key, spec) -> params`; `spec` is `hp.net` of the moment.
        policy: `(params, obs [..., obs]) -> distribution`.
        value: `(params, obs [..., obs]) -> [...]`.
        both: `(params, obs) -> (distribution, value)`, in one pass where the layers are shared.
    """

    init: Callable[[Key, Any], PyTree]
    policy: Callable[[PyTree, PyTree], Any]
    value: Callable[[PyTree, PyTree], Array]
    both: Callable[[PyTree, PyTree], tuple[Any, Array]]


def build_actor_critic(spec: NetKeys, observation_space: Space, head: ActionHead, action_shape: Any) -> ActorCritic:
    """The networks that a spec describes. Where observations hold a mask of valid actions, the policy keeps to it.

    Raises:
        SpecError: unknown names, a critic's keys together with `shared: true`, or a mask that does not fit.
    """
    mask = masking(observation_space, head.choices)
    policy_tail, value_tail = Tail(head.width, "actor"), Tail(1, "critic")
    if spec.shared:
        for name in ("critic_hid_layers", "critic_optim_spec"):
            if getattr(spec, name) is not None:
                raise SpecError("expected no value of its own while `shared: true`.", f"agent.net.{name}")
        trunk = build(spec, observation_space, (policy_tail, value_tail))
    else:
        actor = build(spec, observation_space, (policy_tail,))
        critic = build(spec, observation_space, (value_tail,), critic=True)

    def init(rng: Key, spec: NetKeys) -> PyTree:
        actor_key, critic_key = jax.random.split(rng)
        if spec.shared:
            params = {"actor": trunk.init(actor_key, spec)}
        else:
            params = {"actor": actor.init(actor_key, spec), "critic": critic.init(critic_key, spec)}
        if head.log_std:
            params["log_std"] = jnp.full(action_shape, spec.log_std_init, jnp.float32)
        return params

    def both(params: PyTree, obs: PyTree) -> tuple[Any, Array]:
        if not spec.shared:
            return policy(params, obs), value(params, obs)
        (output, v), _ = trunk.apply(params["actor"], obs, ())
        return head.distribution(mask(output, obs), params.get("log_std")), v[..., 0]

    def policy(params: PyTree, obs: PyTree) -> Any:
        if spec.shared:
            return both(params, obs)[0]
        (output,), _ = actor.apply(params["actor"], obs, ())
        return head.distribution(mask(output, obs), params.get("log_std"))

    def value(params: PyTree, obs: PyTree) -> Array:
        if spec.shared:
            return both(params, obs)[1]
        (v,), _ = critic.apply(params["critic"], obs, ())
        return v[..., 0]

    return ActorCritic(init, policy, value, both)


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
