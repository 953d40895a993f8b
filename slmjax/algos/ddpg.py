"""Deep deterministic policy gradient (DDPG, Lillicrap et al. 2016).

    act: a = pi(s) + noise
    for each sampled batch
        critic descends  ( r + gamma (1 - terminated) Q_target(s', pi_target(s')) - Q(s, a) )^2
        actor  ascends   Q(s, pi(s))                                                     with the critic just learned
        the target networks follow

The loop is that of `learners/off_policy.py`, with a deterministic actor. TD3 (`td3.py`) is the same
with two critics. Actions and their noise are in units of half the range of the action space.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import jax.numpy as jnp

from slmjax.learners import off_policy
from slmjax.learners.off_policy import Actor, Draws, OffPolicyKeys, random_first
from slmjax.nets.keys import POLICY_GRADIENT_KEYS
from slmjax.policies.continuous import from_unit
from slmjax.policies.noise import Noise, next_noise, no_noise, uniform
from slmjax.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, Algorithm, Array, Box, Key, VectorEnv

Smooth = Callable[[Array, Key, HP], Array]  # `(unit target action, key, hp) -> unit action`


@hyper
class DDPGKeys(OffPolicyKeys):
    """`agent.algorithm` of name `DDPG`."""

    name: str = key(default="DDPG", doc="name of the algorithm")
    explore_var_spec: float | Schedule = key(
        default=0.1, doc="standard deviation of the noise on actions, in half ranges of the space", low=0
    )


def deterministic(space: Box, smooth: Smooth | None = None) -> Actor:
    """The actor `tanh(output)`, explored by clipped noise; critics are bootstrapped from `smooth` target actions."""

    def unit(output: Array) -> Array:
        return jnp.tanh(output.reshape(*output.shape[:-1], *space.shape))

    def act(output: Array, carry: Noise, rng: Key, hp: HP, greedy: bool) -> tuple[Array, Noise]:
        if greedy:
            return from_unit(unit(output), space.low, space.high), carry
        carry = next_noise(carry, rng, hp.algorithm.noise_correlation)
        noisy = lambda: jnp.clip(unit(output) + hp.algorithm.explore_var_spec * carry.value, -1.0, 1.0)  # noqa: E731
        played = random_first(hp, lambda: uniform(carry.value), noisy)
        return from_unit(played, space.low, space.high), carry

    def certain(action: Array) -> Draws:
        weight = jnp.ones((len(action), 1))
        return Draws(action, weight, jnp.zeros_like(weight))

    def draws(output: Array, rng: Key, hp: HP) -> Draws:
        return certain(unit(output))

    def next_draws(output: Array, rng: Key, hp: HP) -> Draws:
        return certain(smooth(unit(output), rng, hp) if smooth else unit(output))

    return Actor(prod(space.shape), act, partial(no_noise, space), draws, next_draws)


def make(hp: HP, env: VectorEnv, *, num_critics: int = 1, smooth: Smooth | None = None) -> Agent:
    """A deterministic actor that learns from the first of its critics; for `smooth` see `deterministic`."""
    actor = deterministic(env.action_space, smooth)
    return off_policy.make(
        hp, env, actor=actor, num_critics=num_critics, policy_critics=1, soft=False, target_actor=True
    )


DDPG = Algorithm(DDPGKeys, make, (Box,), ("Replay",), unread=POLICY_GRADIENT_KEYS, net={"update_type": "polyak"})
