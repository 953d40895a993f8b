"""Soft actor-critic (Haarnoja et al. 2018b), continuous, and discrete by exact expectation (Christodoulou 2019).

    act: a ~ pi(. | s)
    for each sampled batch
        V(s')     = E_{a' ~ pi} [ min_i Q_target_i(s', a') - alpha log pi(a' | s') ]
        critics   descend  ( r + gamma (1 - terminated) V(s') - Q_i(s, a) )^2
        actor     descends  E_{a ~ pi} [ alpha log pi(a | s) - min_i Q_i(s, a) ]       with the critics just learned
        log alpha descends  log alpha (H(pi) - target entropy)
        the target critics follow

The loop is that of `learners/off_policy.py`; here are the actors: a squashed normal where actions are continuous,
whose expectations are estimated by one reparameterised draw, and a categorical distribution where they are discrete,
whose expectations are exact sums.
"""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from slmjax.learners import off_policy
from slmjax.learners.off_policy import Actor, Draws, OffPolicyKeys, random_first
from slmjax.learners.temperature import TemperatureKeys
from slmjax.nets.keys import POLICY_GRADIENT_KEYS
from slmjax.policies.continuous import from_unit
from slmjax.policies.discrete import Categorical
from slmjax.policies.heads import squashed_head
from slmjax.policies.noise import Noise, next_noise, no_noise, uniform
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, Algorithm, Array, Box, Discrete, Key, PyTree, VectorEnv


@hyper
class SACKeys(TemperatureKeys, OffPolicyKeys):
    """`agent.algorithm` of name `SoftActorCritic`."""

    name: str = key(default="SoftActorCritic", doc="name of the algorithm")


def squashed(space: Box) -> Actor:
    """A normal distribution through tanh, whose mean and standard deviation both depend on the observation."""
    head = squashed_head(space)

    def draws(output: Array, rng: Key, hp: HP) -> Draws:
        pi = head.distribution(output, None)
        raw = pi.sample(rng)
        log_prob = pi.log_prob(raw)[:, None]
        return Draws(jnp.tanh(raw), jnp.ones_like(log_prob), log_prob)

    def act(output: Array, carry: Noise, rng: Key, hp: HP, greedy: bool) -> tuple[Array, Noise]:
        pi = head.distribution(output, None)
        if greedy:
            return pi.action(pi.mode()), carry
        carry = next_noise(carry, rng, hp.algorithm.noise_correlation)
        unit = random_first(hp, lambda: uniform(carry.value), lambda: jnp.tanh(pi.loc + pi.scale * carry.value))
        return from_unit(unit, space.low, space.high), carry

    def target_entropy(output: Array, hp: HP) -> Array:
        return jnp.full(output.shape[:1], -float(prod(space.shape)))

    return Actor(head.width, act, partial(no_noise, space), draws, draws, target_entropy)


def categorical(space: Discrete) -> Actor:
    """Probabilities of all actions; one whose output is minus infinity is never played."""

    def draws(output: Array, rng: Key, hp: HP) -> Draws:
        log_prob = jax.nn.log_softmax(output)
        weight = jnp.exp(log_prob)
        return Draws((), weight, jnp.where(jnp.isneginf(log_prob), 0.0, log_prob))  # 0 log 0 is 0

    def act(output: Array, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree]:
        pi = Categorical(output)
        if greedy:
            return pi.mode(), carry
        valid = Categorical(jnp.where(jnp.isneginf(output), output, 0.0))
        return random_first(hp, lambda: valid.sample(rng), lambda: pi.sample(rng)), carry

    def target_entropy(output: Array, hp: HP) -> Array:
        # Of the valid actions alone: an entropy out of reach would raise alpha without bound.
        return hp.algorithm.target_entropy_ratio * jnp.log(jnp.sum(~jnp.isneginf(output), -1))

    return Actor(space.n, act, lambda num_envs: (), draws, draws, target_entropy)


def make(hp: HP, env: VectorEnv, **critics: Any) -> Agent:
    """A soft actor-critic; what `critics` may say, and errors, are those of `off_policy.make`."""
    space = env.action_space
    actor = categorical(space) if isinstance(space, Discrete) else squashed(space)
    return off_policy.make(hp, env, actor=actor, **critics)


ACTIONS = (Discrete, Box)
ONLY_FOR = {"noise_correlation": Box, "target_entropy_ratio": Discrete}
SOFT_ACTOR_CRITIC = Algorithm(
    SACKeys, make, ACTIONS, ("Replay",), unread=POLICY_GRADIENT_KEYS, net={"update_type": "polyak"}, only_for=ONLY_FOR
)
