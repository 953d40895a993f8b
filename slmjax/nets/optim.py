"""Optimisers by name, rebuilt from the hyperparameters at every update.

A transformation built from traced numbers must not be kept in a state (it would leak tracers and change the tree
structure); its state does not depend on those numbers, so building it again is free.
"""

import inspect
from typing import Any

import optax

from slmjax.registry import nearest
from slmjax.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import SpecError

# Those that need more than a gradient are left out: the loss (lbfgs, polyak_sgd), a key (noisy_sgd); and rprop, whose
# learning rate is that of its first step alone.
_OPTIMIZERS = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw "
    "novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop sgd sign_sgd sm3 yogi"
).split()
_DATA = ("b1", "b2", "eps", "decay", "momentum", "weight_decay")


@hyper
class OptimSpec:
    """`agent.net.optim_spec`: any first-order optax optimiser. Keys that are null take optax's default."""

    name: str = key(default="Adam", doc="an optax optimiser, upper or lower case")
    lr: float | Schedule = key(default=1e-3, doc="learning rate, or a schedule of it over frames", low=0)
    b1: float | None = key(default=None, doc="decay of the first moment", low=0, high=1)
    b2: float | None = key(default=None, doc="decay of the second moment", low=0, high=1)
    eps: float | None = key(default=None, doc="added to the denominator", low=0)
    decay: float | None = key(default=None, doc="decay of RMSprop's average", low=0, high=1)
    momentum: float | None = key(default=None, doc="momentum of SGD and RMSprop", low=0, high=1)
    weight_decay: float | None = key(default=None, doc="decoupled weight decay (AdamW and kin)", low=0)
    kwargs: dict[str, Any] | None = key(default=None, doc="further arguments of the optax function: {nesterov: true}")


def optimizer(
    spec: OptimSpec, clip_grad_val: Any = None, path: str = "agent.net.optim_spec"
) -> optax.GradientTransformation:
    """The optax transformation: clip by *global* norm where asked, then the optimiser.

    `path` is the key that an error names.

    Raises:
        SpecError: unknown optimiser, or a key that it does not take.
    """
    name = spec.name.lower()
    if name not in _OPTIMIZERS:
        known = ", ".join(_OPTIMIZERS)
        raise SpecError(f"unknown optimiser {spec.name!r}.{nearest(name, _OPTIMIZERS)} Known: {known}.", f"{path}.name")
    factory = getattr(optax, name)
    accepted = [*inspect.signature(factory).parameters][1:]  # the first is the learning rate
    chosen = {field: getattr(spec, field) for field in _DATA if getattr(spec, field) is not None}
    more: dict[str, Any] = spec.kwargs or {}
    for field in (*chosen, *more):
        where = f"{path}.kwargs.{field}" if field in more else f"{path}.{field}"
        if field not in accepted:
            known = ", ".join(accepted)
            close = nearest(field, accepted)
            raise SpecError(f"optimiser {spec.name!r} takes no key {field!r}.{close} Known: {known}.", where)
        if field in more and field in _DATA:
            raise SpecError(f"expected it outside of `kwargs`, as {path}.{field}.", where)
    transformation = factory(spec.lr, **chosen, **more)
    if clip_grad_val is None:
        return transformation
    return optax.chain(optax.clip_by_global_norm(clip_grad_val), transformation)


def net_optimizer(net: Any) -> optax.GradientTransformation:
    """The optimiser of a network by `agent.net`: its `optim_spec`, its gradient clipped as `clip_grad_val` says."""
    return optimizer(net.optim_spec, net.clip_grad_val)


def critic_optimizer(net: Any) -> optax.GradientTransformation:
    """The same for a separate critic: by its `critic_optim_spec`, or `optim_spec` where that is null."""
    if net.critic_optim_spec is None:
        return net_optimizer(net)
    return optimizer(net.critic_optim_spec, net.clip_grad_val, "agent.net.critic_optim_spec")
