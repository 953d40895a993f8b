"""Schedules: numbers that change with the frame (exploration, entropy, clipping, learning rate).

Written in a spec as a bare number, or as `{name, start_val, end_val, start_step, end_step}` (SLM Lab's
`explore_var_spec`); steps are frames. Unlike SLM Lab's, each does what its name says in both directions, and an
`end_val` of 0 is a value like any other. Or as `{name, kwargs}`, the schedule of that name in optax.
"""

import inspect
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax

from slmjax.spec.schema import hyper, key

NAMES = ("no_decay", "linear_decay", "rate_decay", "periodic_decay")
OPTAX = (
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
)


@hyper
class Schedule:
    """A number as a function of the frame. Its values are data: sessions with different schedules share a program."""

    name: str = key(default="linear_decay", doc="shape of the decay, or an optax schedule", choices=(*NAMES, *OPTAX))
    start_val: float | None = key(default=None, doc="value until `start_step`; none for a schedule of optax")
    end_val: float | None = key(default=None, doc="value from `end_step` on; `no_decay` needs none")
    start_step: float = key(default=0.0, doc="frame at which the decay begins", low=0)
    end_step: float = key(default=0.0, doc="frame at which the decay ends, after `start_step`", low=0)
    kwargs: dict[str, Any] | None = key(default=None, doc="arguments of a schedule of optax, its steps in frames")

    def check(self) -> None:
        """Refuses a decay without an end. Called by the loader, where every number is known.

        Raises:
            ValueError: a decay without its values, or whose end does not come after its start; arguments that the
                schedule of optax does not take, or keys that it does not read.
        """
        if self.name in OPTAX:
            self._check_optax()
            return
        if self.kwargs is not None:
            raise ValueError(f"expected kwargs with a schedule of optax alone, got {self.name}")
        if self.start_val is None:
            raise ValueError("missing required key 'start_val' (a number)")
        if self.name == "no_decay":
            return
        if self.end_val is None:
            raise ValueError(f"expected an end_val to which {self.name} goes, got null")
        if self.end_step <= self.start_step:
            start, end = f"{self.start_step:.12g}", f"{self.end_step:.12g}"
            raise ValueError(f"expected an end_step after start_step {start}, got {end}")

    def _check_optax(self) -> None:
        accepted = inspect.signature(getattr(optax, self.name)).parameters
        needs = ", ".join(n if p.default is p.empty else f"{n}={p.default}" for n, p in accepted.items())
        if self.start_val is not None or self.end_val is not None or self.start_step or self.end_step:
            raise ValueError(f"expected kwargs ({needs}) and nothing else for {self.name}")
        try:
            first = jnp.asarray(_of_optax(self)(0), jnp.float32)
        except Exception as error:  # optax raises several kinds for arguments that do not fit
            raise ValueError(
                f"expected kwargs of optax.{self.name} ({needs}), got {dict(self.kwargs or {})}"
            ) from error
        if first.shape or not jnp.isfinite(first):
            raise ValueError(f"expected a finite number at frame 0, got {first}")


_SHAPES = {
    "linear_decay": lambda p: 1.0 - p,
    "rate_decay": lambda p: jnp.where(p < 1.0, 0.9 ** (20.0 * p) - 0.9**20 * p, 0.0),
    "periodic_decay": lambda p: 0.5 * (1.0 + jnp.cos(10.0 * jnp.pi * p)) * (1.0 - p),
}


def value(schedule: Schedule, frame: Any) -> jax.Array:
    """The value of a schedule at a frame, a float32 scalar.

    With progress `p = clip((frame - start_step) / (end_step - start_step), 0, 1)` (1 when the interval is empty and
    over) and `d = start_val - end_val`:

    - `no_decay`: `start_val`;
    - `linear_decay`: `end_val + d (1 - p)`;
    - `rate_decay`: `end_val + d (0.9^(20 p) - 0.9^20 p)`, geometric (20 factors of 0.9, as in SLM Lab), shifted so
      that it arrives at `end_val` exactly;
    - `periodic_decay`: `end_val + d/2 (1 + cos(10 pi p)) (1 - p)`, five damped oscillations between the two values;
    - any name of `OPTAX`: what optax says of it at that frame.
    """
    if schedule.name in OPTAX:
        return jnp.asarray(_of_optax(schedule)(frame), jnp.float32)
    start = jnp.asarray(schedule.start_val, jnp.float32)
    if schedule.name == "no_decay" or schedule.end_val is None:
        return start
    end = jnp.asarray(schedule.end_val, jnp.float32)
    elapsed = jnp.asarray(frame, jnp.float32) - schedule.start_step
    span = jnp.asarray(schedule.end_step, jnp.float32) - schedule.start_step
    p = jnp.clip(jnp.where(span > 0, elapsed / jnp.where(span > 0, span, 1.0), elapsed >= 0), 0.0, 1.0)
    shape = _SHAPES[schedule.name](p)
    return start * shape + end * (1.0 - shape)  # exact at both ends, where the difference would round


def at(hp: Any, frame: Any) -> Any:
    """`hp` with every schedule in it replaced by its value at `frame`, and `hp.frame` set."""
    now = jax.tree.map(lambda node: value(node, frame) if _is_schedule(node) else node, hp, is_leaf=_is_schedule)
    return now._replace(frame=frame)


def columns(hp: Any, now: Any) -> dict[str, jax.Array]:
    """What every schedule in `hp` is worth in `now = at(hp, frame)`, by its key without `_spec`: `lr`, ..."""
    found = {}
    for path, node in jax.tree_util.tree_leaves_with_path(hp, is_leaf=_is_schedule):
        if _is_schedule(node):
            names = [part.name for part in path]
            *_, section, name = names
            owner = section.removesuffix("optim_spec") if section.endswith("optim_spec") else ""
            found[owner + name.removesuffix("_spec")] = reduce(getattr, names, now)
    return found


def _is_schedule(node: Any) -> bool:
    return isinstance(node, Schedule)


def _of_optax(schedule: Schedule) -> optax.Schedule:
    arguments = dict(schedule.kwargs or {})
    if isinstance(steps := arguments.get("boundaries_and_scales"), dict):
        arguments["boundaries_and_scales"] = {int(frame): scale for frame, scale in steps.items()}
    made: optax.Schedule = getattr(optax, schedule.name)(**arguments)
    return made
