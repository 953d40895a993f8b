"""Action distributions: from a network's output to an action, its log-probability, entropy and mode.

A distribution draws a *raw* value; `action` turns it into what the environment accepts (clipped, squashed, rescaled).
Learning keeps the raw value, so that a log-probability is exact and never the logarithm of a clipped tail.
The last axes are one event: `log_prob` and `entropy` return one number for each environment.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.registry import nearest
from slmjax.types import Array, Box, Discrete, Key, SpecError

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Categorical(NamedTuple):
    """One of `A` actions with probabilities `softmax(logits)`, logits `[..., A]`."""

    logits: Array

    def sample(self, key: Key) -> Array:
        """A draw, int32 `[...]`."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def log_prob(self, raw: Array) -> Array:
        """`log p(raw)`, `[...]`."""
        picked = jnp.take_along_axis(self.logits, raw[..., None].astype(jnp.int32), -1)[..., 0]
        return picked - jax.nn.logsumexp(self.logits, -1)

    def entropy(self) -> Array:
        """`-sum p log p` in nats, `[...]`."""
        log_p = jax.nn.log_softmax(self.logits)
        safe = jnp.where(jnp.isneginf(log_p), 0.0, log_p)  # inside the product, or the gradient of a mask is NaN
        return -jnp.sum(jnp.exp(safe) * safe, -1)

    def mode(self) -> Array:
        """The likeliest action."""
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def action(self, raw: Array) -> Array:
        """`raw` itself."""
        return raw


class Argmax(NamedTuple):
    """The action of the highest score with probability one: what a greedy value method plays. `scores [..., A]`."""

    scores: Array

    def sample(self, key: Key) -> Array:
        """The best action; `key` is not used."""
        del key
        return self.mode()

    def log_prob(self, raw: Array) -> Array:
        """0 for the best action, minus infinity for every other."""
        return jnp.where(raw == self.mode(), 0.0, -jnp.inf)

    def entropy(self) -> Array:
        """0."""
        return jnp.zeros(self.scores.shape[:-1])

    def mode(self) -> Array:
        """The best action, int32 `[...]`."""
        return jnp.argmax(self.scores, -1).astype(jnp.int32)

    def action(self, raw: Array) -> Array:
        """`raw` itself."""
        return raw


class Normal(NamedTuple):
    """Independent normals `[..., *shape]`, clipped: raw -1 and 1 are the bounds of the space, what is beyond is cut."""

    loc: Array
    scale: Array
    low: Array
    high: Array
    event: int  # number of trailing axes that form one action

    def _sum(self, x: Array) -> Array:
        return jnp.sum(x, tuple(range(-self.event, 0))) if self.event else x

    def sample(self, key: Key) -> Array:
        """A raw draw, unbounded."""
        return self.loc + self.scale * jax.random.normal(key, self.loc.shape)

    def log_prob(self, raw: Array) -> Array:
        """Log-density of the raw value."""
        z = (raw - self.loc) / self.scale
        return self._sum(-0.5 * z**2 - jnp.log(self.scale) - _HALF_LOG_2PI)

    def entropy(self) -> Array:
        """Differential entropy of the raw value, in nats."""
        return self._sum(0.5 + _HALF_LOG_2PI + jnp.log(jnp.broadcast_to(self.scale, self.loc.shape)))

    def mode(self) -> Array:
        """The raw mean."""
        return self.loc

    def action(self, raw: Array) -> Array:
        """The raw value clipped to [-1, 1] and stretched to the space.

        Where a bound is infinite the raw value is the action itself, clipped to the other bound.
        """
        return _stretch(jnp.clip(raw, -1.0, 1.0), raw, self.low, self.high)


class SquashedNormal(NamedTuple):
    """Independent normals through `tanh`, stretched to the space (Haarnoja et al. 2018, appendix C).

    Log-probabilities are those of `tanh(raw)` in [-1, 1]; the constant of the stretch is left out, as the target
    entropies in the literature assume.
    """

    loc: Array
    scale: Array
    low: Array
    high: Array
    event: int

    def _sum(self, x: Array) -> Array:
        return jnp.sum(x, tuple(range(-self.event, 0))) if self.event else x

    def sample(self, key: Key) -> Array:
        """A raw draw, before `tanh`."""
        return self.loc + self.scale * jax.random.normal(key, self.loc.shape)

    def log_prob(self, raw: Array) -> Array:
        """Log-density of `tanh(raw)`: `log N(raw) - sum log(1 - tanh(raw)^2)`, in the form that does not overflow."""
        z = (raw - self.loc) / self.scale
        normal = -0.5 * z**2 - jnp.log(self.scale) - _HALF_LOG_2PI
        return self._sum(normal - 2.0 * (math.log(2.0) - raw - jax.nn.softplus(-2.0 * raw)))

    def entropy(self) -> Array:
        """Differential entropy of the normal before `tanh`, an upper bound (the squashed one has no closed form)."""
        return self._sum(0.5 + _HALF_LOG_2PI + jnp.log(jnp.broadcast_to(self.scale, self.loc.shape)))

    def mode(self) -> Array:
        """The raw mean, whose `tanh` is the median of the squashed distribution."""
        return self.loc

    def action(self, raw: Array) -> Array:
        """`tanh(raw)` stretched to the space."""
        return _stretch(jnp.tanh(raw), raw, self.low, self.high)


def _stretch(unit: Array, raw: Array, low: Array, high: Array) -> Array:
    finite = jnp.isfinite(low) & jnp.isfinite(high)
    safe_low, safe_high = jnp.where(finite, low, -1.0), jnp.where(finite, high, 1.0)
    stretched = jnp.where(finite, safe_low + 0.5 * (unit + 1.0) * (safe_high - safe_low), raw)
    return jnp.clip(stretched, low, high)  # rounding may step over a bound, a raw value over the only one


class ActionHead(NamedTuple):
    """How a network's output becomes a distribution.

    Attributes:
        width: numbers that the network must put out.
        log_std: whether the distribution also needs a free `log_std` parameter of the action's shape.
        distribution: `(output [..., width], log_std) -> distribution`.
    """

    width: int
    log_std: bool
    distribution: Callable[[Array, Any], Any]


_PDTYPES: dict[type, tuple[str, ...]] = {
    Discrete: ("Categorical", "Argmax"),
    Box: ("Normal", "SquashedNormal"),
}
_CERTAIN = ("Argmax",)  # one action has probability one, whatever the network puts out


def action_head(pdtype: str, space: Any, *, learnable: bool = False) -> ActionHead:
    """The head for an `action_pdtype` (`default`: the first that the space has) and an action space.

    `learnable` allows those alone whose log-probabilities have a gradient, as a policy gradient needs.

    Raises:
        SpecError: the space has no such distribution, or is unbounded and cannot be squashed into.
    """
    valid = _PDTYPES.get(type(space), ())
    if learnable:
        if pdtype in valid and pdtype in _CERTAIN:
            can = ", ".join(("default", *(name for name in valid if name not in _CERTAIN)))
            raise SpecError(
                f"expected a distribution whose log-probabilities have a gradient ({can}), got {pdtype!r}, "
                "which always plays its best action.",
                "agent.algorithm.action_pdtype",
            )
        valid = tuple(name for name in valid if name not in _CERTAIN)
    name = valid[0] if pdtype == "default" and valid else pdtype
    if name not in valid:
        raise SpecError(
            f"action_pdtype {pdtype!r} does not fit the action space {space}.{nearest(name, list(valid))} "
            f"It takes: {', '.join(('default', *valid)) if valid else 'none yet'}.",
            "agent.algorithm.action_pdtype",
        )
    if isinstance(space, Discrete):
        discrete = {"Categorical": Categorical, "Argmax": Argmax}[name]
        return ActionHead(space.n, False, lambda output, log_std: discrete(output))
    if name == "SquashedNormal" and not space.bounded:
        message = f"action_pdtype {pdtype!r} needs finite bounds, got {space}. Normal takes any."
        raise SpecError(message, "agent.algorithm.action_pdtype")
    continuous = {"Normal": Normal, "SquashedNormal": SquashedNormal}[name]
    low, high, shape = space.low, space.high, space.shape

    def distribution(output: Array, log_std: Array) -> Any:
        loc = output.reshape(*output.shape[:-1], *shape)
        scale = jnp.exp(jnp.clip(log_std, -20.0, 2.0))
        return continuous(loc, jnp.broadcast_to(scale, loc.shape), low, high, len(shape))

    return ActionHead(math.prod(shape), True, distribution)
