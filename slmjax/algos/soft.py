"""Stochastic actors of maximum-entropy learning, expectations over their actions, and their critics' loss.

The expectation is one reparameterised draw where actions are continuous, and a sum over all of them where they are
discrete: the formulas are the same, over `K` actions with weights (`Draws`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.algos import offpolicy
from slmjax.algos.critics import Critics, td_loss
from slmjax.algos.losses import same_shape
from slmjax.algos.temperature import LEARNED_ALPHA
from slmjax.memory.replay import Batch
from slmjax.policies.distributions import Categorical, SquashedNormal
from slmjax.spec.errors import refuse_unread
from slmjax.types import HP, Array, Box, Discrete, Key, PyTree

# Bounds of log std as in Yarats and Kostrikov's pytorch_sac (2020) and CleanRL; the authors' own code has -20 and 2.
LOG_STD = (-5.0, 2.0)


class Draws(NamedTuple):
    """`K` actions in each of `B` states, over which an expectation under the policy is taken.

    Attributes:
        action: unit actions `[B, ...]`; `()` where the `K` are all discrete ones, in their order.
        weight: `[B, K]`: probabilities, or 1 for the only draw.
        log_prob: `[B, K]`.
    """

    action: Any
    weight: Array
    log_prob: Array


class Policy(NamedTuple):
    """What the output of an actor's network means.

    Attributes:
        width: numbers that the network must put out.
        draws: `(output [B, width], key) -> Draws`.
        act: `(output [E, width], carry, key, hp, greedy) -> (action [E, ...], carry)`.
        carry: as `Agent.carry`.
        target_entropy: `(output [B, width], hp) -> [B]`, the entropy to hold where the spec names none.
    """

    width: int
    draws: Callable[[Array, Key], Draws]
    act: Callable[[Array, PyTree, Key, HP, bool], tuple[Array, PyTree]]
    carry: Callable[[int], PyTree]
    target_entropy: Callable[[Array, HP], Array]


def soft_value(q: Array, draws: Draws, alpha: Any) -> Array:
    """`E_pi [min_i q_i - alpha log pi]`, `[B]`, for scores `[N, B, K]` (Haarnoja et al. 2018b, equation 3)."""
    same_shape(q[0], draws.weight, draws.log_prob)
    return jnp.sum(draws.weight * (jnp.min(q, 0) - alpha * draws.log_prob), -1)


def entropy(draws: Draws) -> Array:
    """`-E_pi [log pi]`, `[B]`, of unit actions."""
    return -jnp.sum(draws.weight * draws.log_prob, -1)


# Arguments as those of `soft_td_loss`; the loss, and (mean absolute error [B], mean value, parameters as learned).
CriticLoss = Callable[..., tuple[Array, tuple[Array, Array, PyTree]]]


def soft_td_loss(
    critics: Critics, params: PyTree, targets: PyTree, draws_t: Draws, alpha: Any, batch: Batch, hp: HP
) -> tuple[Array, tuple[Array, Array, PyTree]]:
    """The critics' loss, bootstrapped from the target critics."""
    q_t = critics.apply(targets, batch.final_obs, draws_t.action)
    target = batch.r_t + batch.discount_t * soft_value(q_t, draws_t, alpha)
    scores, learned = critics.learn(params, batch.obs, critics.unit(batch.action), batch.weight)
    q = critics.pick(scores, batch.action)
    value, (error, mean) = td_loss(q, target, batch, hp)
    return value, (error, mean, learned)


def soft_policy(hp: HP, space: Discrete | Box) -> Policy:
    """The policy over a space: `categorical` or `squashed`.

    Raises:
        SpecError: a key that means nothing for such actions, or beside another.
    """
    discrete = isinstance(space, Discrete)
    kind, unread = ("continuous", "noise_correlation") if discrete else ("discrete", "target_entropy_ratio")
    alg, where = hp.algorithm, "agent.algorithm"
    refuse_unread(alg, where, f"it is for {kind} actions", unread)
    if alg.fixed_alpha is not None:
        refuse_unread(alg, where, "fixed_alpha leaves nothing to learn", *LEARNED_ALPHA)
    if alg.target_entropy is not None:
        refuse_unread(alg, where, "target_entropy says what to hold", "target_entropy_ratio")
    return categorical(space) if isinstance(space, Discrete) else squashed(space)


def squashed(space: Box) -> Policy:
    """A normal distribution through tanh, whose mean and log std both depend on the observation."""
    size = math.prod(space.shape)

    def pi(output: Array) -> SquashedNormal:
        loc, log_std = (x.reshape(*x.shape[:-1], *space.shape) for x in jnp.split(output, 2, -1))
        return SquashedNormal(loc, jnp.exp(jnp.clip(log_std, *LOG_STD)), space.low, space.high, len(space.shape))

    def draws(output: Array, rng: Key) -> Draws:
        raw = pi(output).sample(rng)
        log_prob = pi(output).log_prob(raw)[:, None]
        return Draws(jnp.tanh(raw), jnp.ones_like(log_prob), log_prob)

    def act(output: Array, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree]:
        loc, scale, *_ = pi(output)
        return offpolicy.play_unit(hp, space, lambda noise: jnp.tanh(loc + scale * noise), carry, rng, greedy)

    return Policy(
        2 * size,
        draws,
        act,
        partial(offpolicy.no_noise, space),
        lambda output, hp: jnp.full(output.shape[:1], -float(size)),
    )


def categorical(space: Discrete) -> Policy:
    """Probabilities of all actions; one whose output is minus infinity is never played."""

    def draws(output: Array, rng: Key) -> Draws:
        del rng
        log_prob = jax.nn.log_softmax(output)
        weight = jnp.exp(log_prob)
        return Draws((), weight, jnp.where(jnp.isneginf(log_prob), 0.0, log_prob))  # 0 log 0 is 0

    def act(output: Array, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree]:
        pi = Categorical(output)
        if greedy:
            return pi.mode(), carry
        uniform = Categorical(jnp.where(jnp.isneginf(output), output, 0.0))
        return offpolicy.warm_up(hp, lambda: uniform.sample(rng), lambda: pi.sample(rng)), carry

    def most(output: Array, hp: HP) -> Array:
        # Of the valid actions alone: an entropy that no policy can have would raise alpha for ever.
        return hp.algorithm.target_entropy_ratio * jnp.log(jnp.sum(~jnp.isneginf(output), -1))

    return Policy(space.n, draws, act, lambda num_envs: (), most)
