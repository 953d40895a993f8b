"""Which distribution an action space takes, and how a network's output becomes one."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.policies.continuous import Beta, LogNormal, MultivariateNormal, Normal, SquashedNormal
from slmjax.policies.discrete import Argmax, Bernoulli, Categorical, GumbelSoftmax, MultiCategorical
from slmjax.registry import nearest
from slmjax.types import Array, Box, Discrete, MultiBinary, MultiDiscrete, SpecError

# The first of each space is its default.
PDTYPES: dict[type, tuple[str, ...]] = {
    Discrete: ("Categorical", "Argmax", "GumbelSoftmax"),
    MultiDiscrete: ("MultiCategorical",),
    MultiBinary: ("Bernoulli",),
    Box: ("Normal", "SquashedNormal", "MultivariateNormal", "Beta", "LogNormal"),
}
EVERY_ACTION = tuple(PDTYPES)  # spaces that have a distribution with a gradient
# Limits of the logarithm of a standard deviation: those of the code that belongs to Haarnoja et al. 2018.
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
_CERTAIN = ("Argmax",)  # one action has probability one, whatever the network puts out
_BOUNDED = ("SquashedNormal", "Beta")
_PATH = "agent.algorithm.action_pdtype"


class ActionHead(NamedTuple):
    """How a network's output becomes a distribution.

    Attributes:
        width: numbers that the network must put out.
        log_std: whether the distribution also needs a free `log_std` parameter of the action's shape.
        distribution: `(output [..., width], log_std) -> distribution`.
        choices: how many logits each choice has, one number a choice: what a mask of valid actions speaks of
            (`policies.masks.masking`). Empty where it can forbid nothing.
    """

    width: int
    log_std: bool
    distribution: Callable[[Array, Any], Any]
    choices: tuple[int, ...] = ()


def action_head(pdtype: str, space: Any, *, learnable: bool = False, state_std: bool = False) -> ActionHead:
    """The head for an `action_pdtype` (`default`: the first that the space has) and an action space.

    `learnable` allows those alone whose log-probabilities have a gradient, as a policy gradient needs. With `state_std`
    a standard deviation is put out by the network, beside the mean, and is no free parameter.

    Raises:
        SpecError: the space has no such distribution, or lacks the bounds that it needs.
    """
    name = _choose(pdtype, space, learnable)
    if isinstance(space, Discrete):
        kind = {"Categorical": Categorical, "Argmax": Argmax, "GumbelSoftmax": GumbelSoftmax}[name]
        return ActionHead(space.n, False, lambda output, log_std: kind(output), (space.n,))
    if isinstance(space, MultiDiscrete):
        nvec = space.nvec
        return ActionHead(sum(nvec), False, lambda output, log_std: MultiCategorical(output, nvec), nvec)
    if isinstance(space, MultiBinary):
        return ActionHead(space.n, False, lambda output, log_std: Bernoulli(output))
    _check_bounds(name, pdtype, space)
    if name == "Beta":
        return _beta(space)
    if name == "MultivariateNormal":
        return _multivariate(space, state_std)
    return _normal({"Normal": Normal, "SquashedNormal": SquashedNormal, "LogNormal": LogNormal}[name], space, state_std)


def _choose(pdtype: str, space: Any, learnable: bool) -> str:
    valid = PDTYPES.get(type(space), ())
    if learnable:
        if pdtype in valid and pdtype in _CERTAIN:
            can = ", ".join(("default", *(name for name in valid if name not in _CERTAIN)))
            raise SpecError(
                f"expected a distribution whose log-probabilities have a gradient ({can}), got {pdtype!r}, "
                "which always plays its best action.",
                _PATH,
            )
        valid = tuple(name for name in valid if name not in _CERTAIN)
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
    return jnp.exp(jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))


def _shaped(output: Array, shape: tuple[int, ...]) -> Array:
    return output.reshape(*output.shape[:-1], *shape)


def _normal(kind: Any, space: Box, state_std: bool) -> ActionHead:
    low, high, shape = space.low, space.high, space.shape

    def free(output: Array, log_std: Array) -> Any:
        loc = _shaped(output, shape)
        return kind(loc, jnp.broadcast_to(_scale(log_std), loc.shape), low, high, len(shape))

    def of_state(output: Array, log_std: Any) -> Any:
        del log_std
        loc, log_std = (_shaped(half, shape) for half in jnp.split(output, 2, -1))
        return kind(loc, _scale(log_std), low, high, len(shape))

    size = math.prod(shape)
    return ActionHead(2 * size, False, of_state) if state_std else ActionHead(size, True, free)


def _beta(space: Box) -> ActionHead:
    low, high, shape = space.low, space.high, space.shape

    def distribution(output: Array, log_std: Any) -> Beta:
        del log_std
        alpha, beta = (1.0 + jax.nn.softplus(_shaped(half, shape)) for half in jnp.split(output, 2, -1))
        return Beta(alpha, beta, low, high, len(shape))

    return ActionHead(2 * math.prod(shape), False, distribution)


def _multivariate(space: Box, state_std: bool) -> ActionHead:
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

    def distribution(output: Array, log_std: Any) -> MultivariateNormal:
        loc, logarithms, lower = jnp.split(output, (size, 2 * size), -1)
        scale = _scale(logarithms if log_std is None else logarithms + log_std.reshape(-1))
        constants = jnp.broadcast_to(jnp.array([0.0, 1.0], output.dtype), (*output.shape[:-1], 2))
        tril = scale[..., None] * jnp.concatenate([lower, constants], -1)[..., place]
        return MultivariateNormal(_shaped(loc, shape), tril, low, high, len(shape))

    return ActionHead(2 * size + below, not state_std, distribution)
