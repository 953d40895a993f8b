"""Action distributions: which one an action space takes, and how a network's output becomes one.

A distribution draws a *raw* value; `action` turns it into what the environment accepts (clipped, squashed, rescaled).
Learning keeps the raw value, so that a log-probability is exact and never the logarithm of a clipped tail.
The last axes are one event: `log_prob` and `entropy` return one number for each environment.

    sample(key) -> raw         one for each environment
    log_prob(raw) -> [...]
    entropy() -> [...]         in nats
    mode() -> raw              what a greedy agent plays
    action(raw) -> action      of the space
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.policies.continuous import Beta, LogNormal, MultivariateNormal, Normal, SquashedNormal
from slmjax.policies.discrete import Bernoulli, Categorical, GumbelSoftmax, MultiCategorical
from slmjax.registry import nearest
from slmjax.types import Array, Box, Discrete, MultiBinary, MultiDiscrete, Space, SpecError

# The first of each space is its default.
PDTYPES: dict[type, tuple[str, ...]] = {
    Discrete: ("Categorical", "GumbelSoftmax"),
    MultiDiscrete: ("MultiCategorical",),
    MultiBinary: ("Bernoulli",),
    Box: ("Normal", "SquashedNormal", "MultivariateNormal", "Beta", "LogNormal"),
}
EVERY_ACTION = tuple(PDTYPES)  # spaces that have a distribution
# Limits of the logarithm of a standard deviation: of a free parameter those of the code that belongs to Haarnoja et al.
# 2018; of one that depends on the observation those of Yarats and Kostrikov's pytorch_sac (2020) and CleanRL.
LOG_STD, STATE_LOG_STD = (-20.0, 2.0), (-5.0, 2.0)
_BOUNDED = ("SquashedNormal", "Beta")
_PATH = "agent.algorithm.action_pdtype"


class ActionHead(NamedTuple):
    """How a network's output becomes a distribution.

    Attributes:
        width: numbers that the network must put out.
        log_std: whether the distribution also needs a free `log_std` parameter of the action's shape.
        distribution: `(output [..., width], log_std) -> distribution`.
        raw: the space of its raw draws.
        choices: how many logits each choice has, one number a choice: what a mask of valid actions speaks of
            (`policies.masks.masking`). Empty where it can forbid nothing.
    """

    width: int
    log_std: bool
    distribution: Callable[[Array, Any], Any]
    raw: Space
    choices: tuple[int, ...] = ()


def action_head(pdtype: str, space: Any) -> ActionHead:
    """The head for an `action_pdtype` (`default`: the first that the space has) and an action space.

    Raises:
        SpecError: the space has no such distribution, or lacks the bounds that it needs.
    """
    name = _choose(pdtype, space)
    if isinstance(space, Discrete):
        kind = {"Categorical": Categorical, "GumbelSoftmax": GumbelSoftmax}[name]
        raw = Box(0.0, 1.0, (space.n,)) if name == "GumbelSoftmax" else space
        return ActionHead(space.n, False, lambda output, log_std: kind(output), raw, (space.n,))
    if isinstance(space, MultiDiscrete):
        nvec = space.nvec
        return ActionHead(sum(nvec), False, lambda output, log_std: MultiCategorical(output, nvec), space, nvec)
    if isinstance(space, MultiBinary):
        return ActionHead(space.n, False, lambda output, log_std: Bernoulli(output), space)
    _check_bounds(name, pdtype, space)
    if name == "Beta":
        return _beta(space)
    if name == "MultivariateNormal":
        return _multivariate(space)
    return _normal({"Normal": Normal, "SquashedNormal": SquashedNormal, "LogNormal": LogNormal}[name], space)


def squashed_head(space: Box) -> ActionHead:
    """The head of a `SquashedNormal` over a bounded space whose mean and deviation both depend on the observation."""
    low, high, shape = space.low, space.high, space.shape

    def distribution(output: Array, log_std: Any) -> SquashedNormal:
        del log_std
        loc, log_std = (_shaped(half, shape) for half in jnp.split(output, 2, -1))
        return SquashedNormal(loc, jnp.exp(jnp.clip(log_std, *STATE_LOG_STD)), low, high, len(shape))

    return ActionHead(2 * math.prod(shape), False, distribution, _unbounded(space))


def _choose(pdtype: str, space: Any) -> str:
    valid = PDTYPES.get(type(space), ())
    name = valid[0] if pdtype == "default" and valid else pdtype
    if name not in valid:
        raise SpecError(
            f"action_pdtype {pdtype!r} does not fit the action space {space}.{nearest(name, list(valid))} "
            f"It takes: {', '.join(('default', *valid)) if valid else 'none yet'}.",
            _PATH,
        )
    return name


def _check_bounds(name: str, pdtype: str, space: Box) -> None:
    if not jnp.issubdtype(space.dtype, jnp.floating):
        raise SpecError(f"action_pdtype {pdtype!r} needs real actions, got {space}. MultiDiscrete has integers.", _PATH)
    if name in _BOUNDED and not space.bounded:
        raise SpecError(f"action_pdtype {pdtype!r} needs finite bounds, got {space}. Normal takes any.", _PATH)
    if name == "LogNormal" and not np.isfinite(space.low).all():
        raise SpecError(f"action_pdtype {pdtype!r} needs finite lower bounds, got {space}. Normal takes any.", _PATH)


def _scale(log_std: Array) -> Array:
    return jnp.exp(jnp.clip(log_std, *LOG_STD))


def _shaped(output: Array, shape: tuple[int, ...]) -> Array:
    return output.reshape(*output.shape[:-1], *shape)


def _unbounded(space: Box) -> Box:
    return Box(-np.inf, np.inf, space.shape)


def _normal(kind: Any, space: Box) -> ActionHead:
    low, high, shape = space.low, space.high, space.shape

    def distribution(output: Array, log_std: Array) -> Any:
        loc = _shaped(output, shape)
        return kind(loc, jnp.broadcast_to(_scale(log_std), loc.shape), low, high, len(shape))

    return ActionHead(math.prod(shape), True, distribution, _unbounded(space))


def _beta(space: Box) -> ActionHead:
    low, high, shape = space.low, space.high, space.shape

    def distribution(output: Array, log_std: Any) -> Beta:
        del log_std
        alpha, beta = (1.0 + jax.nn.softplus(_shaped(half, shape)) for half in jnp.split(output, 2, -1))
        return Beta(alpha, beta, low, high, len(shape))

    return ActionHead(2 * math.prod(shape), False, distribution, Box(0.0, 1.0, shape))


def _multivariate(space: Box) -> ActionHead:
    """The output holds the mean, the logarithms of the `n` scales, and what is below the diagonal of a factor `U`.

    The Cholesky factor is `diag(scales) U` with ones on the diagonal of `U`: how wide a policy is and how its entries
    hang together are learned apart, and a scale at its lower limit leaves the inverse finite. A free `log_std` is added
    to the logarithms, so that `log_std_init` says how wide the policy starts.
    """
    low, high, shape = space.low, space.high, space.shape
    size = math.prod(shape)
    below = size * (size - 1) // 2
    place = np.full((size, size), below)  # where in (below the diagonal, 0, 1) each entry of U is
    place[np.tril_indices(size, -1)] = np.arange(below)
    place[np.diag_indices(size)] = below + 1

    def distribution(output: Array, log_std: Array) -> MultivariateNormal:
        loc, logarithms, lower = jnp.split(output, (size, 2 * size), -1)
        scale = _scale(logarithms + log_std.reshape(-1))
        constants = jnp.broadcast_to(jnp.array([0.0, 1.0], output.dtype), (*output.shape[:-1], 2))
        tril = scale[..., None] * jnp.concatenate([lower, constants], -1)[..., place]
        return MultivariateNormal(_shaped(loc, shape), tril, low, high, len(shape))

    return ActionHead(2 * size + below, True, distribution, _unbounded(space))
