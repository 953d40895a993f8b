"""Distributions over choices: Categorical, GumbelSoftmax, MultiCategorical, Bernoulli.

A logit of minus infinity is an action that must not be taken (`policies.masks`): its probability is exactly 0, and
gradients stay finite.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.maths.arrays import pick
from slmjax.types import Array, Key


def _finite_log_softmax(logits: Array) -> Array:
    # 0 instead of minus infinity, whose product with a probability of 0 would be NaN, forwards or on the way back.
    log_p = jax.nn.log_softmax(logits)
    return jnp.where(jnp.isneginf(log_p), 0.0, log_p)


def _entropy(logits: Array) -> Array:
    # exp of the 0 that stands for minus infinity is 1, and its product 0 all the same
    log_p = _finite_log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, -1)


class Categorical(NamedTuple):
    """One of `A` actions with probabilities `softmax(logits)`, logits `[..., A]`."""

    logits: Array

    def sample(self, key: Key) -> Array:
        """A draw, int32 `[...]`."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def log_prob(self, raw: Array) -> Array:
        """`log p(raw)`, `[...]`."""
        return pick(self.logits, raw) - jax.nn.logsumexp(self.logits, -1)

    def entropy(self) -> Array:
        """`-sum p log p` in nats, `[...]`."""
        return _entropy(self.logits)

    def mode(self) -> Array:
        """The likeliest action."""
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def action(self, raw: Array) -> Array:
        """`raw` itself."""
        return raw


class GumbelSoftmax(NamedTuple):
    """A `Categorical` whose draws are one-hot vectors with a gradient (Jang et al. 2017; Maddison et al. 2017).

    The raw value is one-hot, `[..., A]`: a critic can read it, and gradients reach the logits through the relaxed draw
    that it was rounded from (the straight-through estimator). The rounded action has exactly the probabilities
    `softmax(logits)`, at any temperature. So `log_prob` and `entropy` are those of the action; the density of the
    relaxed draw, which the environment never sees, would add variance and nothing else.
    """

    logits: Array
    temperature: float | Array = 1.0  # the lower, the nearer a relaxed draw is to its corner, and the wilder its slope

    def relaxed(self, key: Key) -> Array:
        """A draw inside the simplex, `softmax((logits + Gumbel noise) / temperature)`, `[..., A]`."""
        noise = jax.random.gumbel(key, self.logits.shape, self.logits.dtype)
        return jax.nn.softmax((self.logits + noise) / self.temperature)

    def sample(self, key: Key) -> Array:
        """The nearest corner of a relaxed draw, one-hot `[..., A]`, with the relaxed draw's gradient."""
        relaxed = self.relaxed(key)
        return self._corner(relaxed) + (relaxed - jax.lax.stop_gradient(relaxed))

    def log_prob(self, raw: Array) -> Array:
        """`log p` of the action that the one-hot `raw` stands for, `[...]`; linear in `raw`, so slopes pass through."""
        impossible = (raw > 0.5) & jnp.isneginf(self.logits)
        log_p = jnp.sum(raw * _finite_log_softmax(self.logits), -1)
        return jnp.where(jnp.any(impossible, -1), -jnp.inf, log_p)

    def entropy(self) -> Array:
        """`-sum p log p` of the action in nats, `[...]`."""
        return _entropy(self.logits)

    def mode(self) -> Array:
        """The likeliest action, one-hot."""
        return self._corner(self.logits)

    def action(self, raw: Array) -> Array:
        """The index of the one, int32 `[...]`."""
        return jnp.argmax(raw, -1).astype(jnp.int32)

    def _corner(self, scores: Array) -> Array:
        return jax.nn.one_hot(jnp.argmax(scores, -1), scores.shape[-1], dtype=scores.dtype)


class MultiCategorical(NamedTuple):
    """`K` independent choices, the i-th among `nvec[i]`; their logits lie side by side, `[..., sum(nvec)]`."""

    logits: Array
    nvec: tuple[int, ...]

    def _parts(self, flat: Array) -> list[Array]:
        return jnp.split(flat, np.cumsum(self.nvec)[:-1], -1)

    def _best(self, flat: Array) -> Array:
        return jnp.stack([jnp.argmax(part, -1) for part in self._parts(flat)], -1).astype(jnp.int32)

    def sample(self, key: Key) -> Array:
        """A draw, int32 `[..., K]`."""
        return self._best(self.logits + jax.random.gumbel(key, self.logits.shape, self.logits.dtype))

    def log_prob(self, raw: Array) -> Array:
        """`sum_i log p_i(raw_i)`, `[...]`."""
        parts = enumerate(self._parts(self.logits))
        return jnp.sum(jnp.stack([Categorical(part).log_prob(raw[..., i]) for i, part in parts]), 0)

    def entropy(self) -> Array:
        """Sum of the choices' entropies in nats, `[...]`."""
        return jnp.sum(jnp.stack([_entropy(part) for part in self._parts(self.logits)]), 0)

    def mode(self) -> Array:
        """The likeliest of each choice, int32 `[..., K]`."""
        return self._best(self.logits)

    def action(self, raw: Array) -> Array:
        """`raw` itself."""
        return raw


class Bernoulli(NamedTuple):
    """`n` independent bits, each set with probability `sigmoid(logit)`, logits `[..., n]`."""

    logits: Array

    def sample(self, key: Key) -> Array:
        """A draw, int32 `[..., n]`."""
        noise = jax.random.logistic(key, self.logits.shape, self.logits.dtype)
        return (noise < self.logits).astype(jnp.int32)

    def log_prob(self, raw: Array) -> Array:
        """`sum_i log p_i(raw_i)`, `[...]`; `log sigmoid(x) = -softplus(-x)`, and `1 - sigmoid(x) = sigmoid(-x)`."""
        return -jnp.sum(jax.nn.softplus(jnp.where(raw > 0, -self.logits, self.logits)), -1)

    def entropy(self) -> Array:
        """Sum of the bits' entropies in nats, `[...]`."""
        size = jnp.abs(self.logits)  # the entropy is even in the logit; on this side nothing cancels
        return jnp.sum(jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size), -1)

    def mode(self) -> Array:
        """The likelier value of each bit, int32 `[..., n]`."""
        return (self.logits > 0).astype(jnp.int32)

    def action(self, raw: Array) -> Array:
        """`raw` itself."""
        return raw
