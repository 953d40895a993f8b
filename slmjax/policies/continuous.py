"""Distributions over real vectors: Normal, SquashedNormal, MultivariateNormal, Beta, LogNormal.

Where a distribution is squashed (`SquashedNormal`, `LogNormal`) the raw value is the one before it, so that no density
ever inverts a saturated function. Draws are differentiable through their noise.

Actions of a space with finite bounds are also numbers in [-1, 1], *unit actions*: -1 is the lower bound, 1 the upper.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, digamma

from slmjax.types import Array, Key

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_MAX_EXPONENT = 88.0  # exp of it is still finite in float32
_NODES = np.linspace(-5.5, 5.5, 64, dtype=np.float32)  # of a standard normal: the trapezoid rule over all of its mass
_NODE_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.sum(np.exp(-0.5 * _NODES**2))


def _sum(x: Array, event: int) -> Array:
    return jnp.sum(x, tuple(range(-event, 0))) if event else x


def _normal_log_prob(z: Array, scale: Array) -> Array:
    return -0.5 * z**2 - jnp.log(scale) - _HALF_LOG_2PI


def _normal_entropy(loc: Array, scale: Array) -> Array:
    return 0.5 + _HALF_LOG_2PI + jnp.log(jnp.broadcast_to(scale, loc.shape))


def _noise(key: Key, like: Array) -> Array:
    return jax.random.normal(key, jnp.shape(like), jnp.result_type(like))


def to_unit(action: Array, low: np.ndarray, high: np.ndarray) -> Array:
    """An action between finite bounds as a unit action; of a number that has one value alone, any."""
    span = np.where(high > low, high - low, np.float32(1.0))
    return jnp.clip(2.0 * (action - low) / span - 1.0, -1.0, 1.0)


def from_unit(unit: Array, low: np.ndarray, high: np.ndarray) -> Array:
    """The inverse of `to_unit`."""
    return _stretch(unit, unit, low, high)


def _stretch(unit: Array, raw: Array, low: Any, high: Any) -> Array:
    """A unit action between its bounds; where one is infinite the raw value, clipped to the other."""
    finite = jnp.isfinite(low) & jnp.isfinite(high)
    safe_low, safe_high = jnp.where(finite, low, -1.0), jnp.where(finite, high, 1.0)
    stretched = jnp.where(finite, safe_low + 0.5 * (unit + 1.0) * (safe_high - safe_low), raw)
    return jnp.clip(stretched, low, high)  # rounding may step over a bound, a raw value over the only one


class Normal(NamedTuple):
    """Independent normals `[..., *shape]`, clipped: raw -1 and 1 are the bounds of the space, what is beyond is cut."""

    loc: Array
    scale: Array
    low: Array
    high: Array
    event: int  # number of trailing axes that form one action

    def sample(self, key: Key) -> Array:
        """A raw draw, unbounded."""
        return self.loc + self.scale * _noise(key, self.loc)

    def log_prob(self, raw: Array) -> Array:
        """Log-density of the raw value."""
        return _sum(_normal_log_prob((raw - self.loc) / self.scale, self.scale), self.event)

    def entropy(self) -> Array:
        """Differential entropy of the raw value, in nats."""
        return _sum(_normal_entropy(self.loc, self.scale), self.event)

    def mode(self) -> Array:
        """The raw mean."""
        return self.loc

    def action(self, raw: Array) -> Array:
        """The raw value clipped to [-1, 1] and stretched to the space.

        Where a bound is infinite the raw value is the action itself, clipped to the other bound.
        """
        return _stretch(jnp.clip(raw, -1.0, 1.0), raw, self.low, self.high)


class SquashedNormal(Normal):
    """Independent normals through `tanh`, stretched to the space (Haarnoja et al. 2018, appendix C).

    The raw value is the one before `tanh`; that of the mode is the median of the squashed distribution.
    Log-probabilities are those of `tanh(raw)` in [-1, 1]; the constant of the stretch is left out, as the target
    entropies in the literature assume.
    """

    def log_prob(self, raw: Array) -> Array:
        """Log-density of `tanh(raw)`: `log N(raw) - sum log(1 - tanh(raw)^2)`, in the form that does not overflow."""
        normal = _normal_log_prob((raw - self.loc) / self.scale, self.scale)
        return _sum(normal - _log_tanh_slope(raw), self.event)

    def entropy(self) -> Array:
        """Differential entropy of `tanh(raw)`, in nats: that of the normal plus `E[log(1 - tanh(raw)^2)]`.

        The expectation has no closed form. It is summed over fixed nodes, which is deterministic and has the slopes
        of the entropy: as a bonus, that of the normal alone would widen a policy until it plays the bounds only. The
        error is below 2e-4 for standard deviations up to `exp(2)`.
        """
        raw = self.loc[..., None] + jnp.broadcast_to(self.scale, self.loc.shape)[..., None] * _NODES
        slope = jnp.sum(_NODE_WEIGHTS * _log_tanh_slope(raw), -1)
        return _sum(_normal_entropy(self.loc, self.scale) + slope, self.event)

    def action(self, raw: Array) -> Array:
        """`tanh(raw)` stretched to the space."""
        return _stretch(jnp.tanh(raw), raw, self.low, self.high)


def _log_tanh_slope(raw: Array) -> Array:
    return 2.0 * (math.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))


class MultivariateNormal(NamedTuple):
    """One normal over all `n` entries of an action, with full covariance `tril @ tril.T`; clipped as `Normal` is.

    `loc [..., *shape]`; `tril [..., n, n]` is the Cholesky factor, lower triangular with a positive diagonal.
    """

    loc: Array
    tril: Array
    low: Array
    high: Array
    event: int

    def _flat(self, x: Array) -> Array:
        return x.reshape(*self._batch(), self.tril.shape[-1])

    def _batch(self) -> tuple[int, ...]:
        return self.loc.shape[: self.loc.ndim - self.event]

    def _log_scale(self) -> Array:
        return jnp.sum(jnp.log(jnp.diagonal(self.tril, axis1=-2, axis2=-1)), -1)

    def sample(self, key: Key) -> Array:
        """A raw draw, unbounded."""
        z = _noise(key, self._flat(self.loc))
        return self.loc + jnp.sum(self.tril * z[..., None, :], -1).reshape(self.loc.shape)

    def log_prob(self, raw: Array) -> Array:
        """Log-density of the raw value."""
        z = _solve(self.tril, self._flat(raw - self.loc))
        return jnp.sum(-0.5 * z**2 - _HALF_LOG_2PI, -1) - self._log_scale()

    def entropy(self) -> Array:
        """Differential entropy of the raw value, in nats."""
        return jnp.broadcast_to(self.tril.shape[-1] * (0.5 + _HALF_LOG_2PI) + self._log_scale(), self._batch())

    def mode(self) -> Array:
        """The raw mean."""
        return self.loc

    def action(self, raw: Array) -> Array:
        """As `Normal.action`."""
        return _stretch(jnp.clip(raw, -1.0, 1.0), raw, self.low, self.high)


def _solve(tril: Array, x: Array) -> Array:
    # Forward substitution. jax's triangular solve is a LAPACK call on the CPU, and those can deadlock when batched
    # over sessions on few cores (see `nets.initializers`); actions have few entries, so rows one by one cost little.
    def row(z: Array, i: Array) -> tuple[Array, None]:
        known = jnp.sum(tril[..., i, :] * z, -1)
        return z.at[..., i].set((x[..., i] - known) / tril[..., i, i]), None

    return jax.lax.scan(row, jnp.zeros_like(x), jnp.arange(x.shape[-1]))[0]


class Beta(NamedTuple):
    """Independent Beta distributions stretched to the space: bounded without clipping (Chou et al. 2017).

    With `alpha` and `beta` of at least 1 the density has one peak and no poles. The raw value is in (0, 1), the place
    between the bounds.
    """

    alpha: Array
    beta: Array
    low: Array
    high: Array
    event: int

    def sample(self, key: Key) -> Array:
        """A raw draw in (0, 1): of two Gamma draws the first's share of both. Its slope is theirs, the implicit one."""
        # One sampler for both, for compiling it takes longer than anything else here.
        shapes = jnp.stack(jnp.broadcast_arrays(self.alpha, self.beta))
        gamma = jax.random.loggamma(key, shapes, dtype=jnp.result_type(shapes))
        return _inside(jax.nn.sigmoid(gamma[0] - gamma[1]))

    def log_prob(self, raw: Array) -> Array:
        """Log-density of the raw value; at 0 and 1 that of the nearest draw, so that it is finite."""
        raw = _inside(raw)
        powers = (self.alpha - 1.0) * jnp.log(raw) + (self.beta - 1.0) * jnp.log1p(-raw)
        return _sum(powers - betaln(self.alpha, self.beta), self.event)

    def entropy(self) -> Array:
        """Differential entropy of the raw value, in nats."""
        a, b = self.alpha, self.beta
        spread = (a + b - 2.0) * digamma(a + b) - (a - 1.0) * digamma(a) - (b - 1.0) * digamma(b)
        return _sum(betaln(a, b) + spread, self.event)

    def mode(self) -> Array:
        """The peak `(alpha - 1) / (alpha + beta - 2)`; the middle where the density is flat."""
        total = self.alpha + self.beta - 2.0
        return jnp.where(total > 0, (self.alpha - 1.0) / jnp.where(total > 0, total, 1.0), 0.5)

    def action(self, raw: Array) -> Array:
        """`low + raw (high - low)`."""
        return _stretch(2.0 * raw - 1.0, raw, self.low, self.high)


def _inside(unit: Array) -> Array:
    edge = jnp.finfo(jnp.result_type(unit)).eps
    return jnp.clip(unit, edge, 1.0 - edge)


class LogNormal(Normal):
    """Independent positive numbers whose logarithm is normal, added to the lower bound and clipped to the upper one.

    The raw value is the logarithm. Log-probabilities and entropy are those of `exp(raw)`.
    """

    def log_prob(self, raw: Array) -> Array:
        """Log-density of `exp(raw)`: `log N(raw) - raw`."""
        return _sum(_normal_log_prob((raw - self.loc) / self.scale, self.scale) - raw, self.event)

    def entropy(self) -> Array:
        """Differential entropy of `exp(raw)`, in nats: that of the normal, plus its mean."""
        return _sum(_normal_entropy(self.loc, self.scale) + self.loc, self.event)

    def mode(self) -> Array:
        """The logarithm of the peak of the density, `loc - scale^2`."""
        return self.loc - self.scale**2

    def action(self, raw: Array) -> Array:
        """`low + exp(raw)`, clipped to the space."""
        return jnp.clip(self.low + jnp.exp(jnp.minimum(raw, _MAX_EXPONENT)), self.low, self.high)
