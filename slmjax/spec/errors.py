"""One message for every mistake in a spec: where it is, which key, what was expected, what was got, what is near."""

import dataclasses
import math
from typing import Any

from slmjax.registry import nearest
from slmjax.spec.sections import Spec
from slmjax.types import SpecError, UserError

At = tuple[str, int]  # (file or `--set ...`, line or 0); ("", 0) where a value has no place, as in a dict

SHOWN = 60  # characters of a value that a message repeats
LONGEST = 2000  # characters of a message

# What SLM Lab called otherwise or had, and slmjax has not: key -> what to do instead.
MOVED = {
    "body": "it is gone: one agent acts in one environment; leave it out",
    "clip_val_loss": "it is called 'clip_vloss'",
    "distributed": "it is gone: sessions are spread over the devices that there are; leave it out",
    "gpu": "it is gone: JAX chooses the device; leave it out",
    "learning_rate": "it is called 'lr'",
    "lr_scheduler_spec": "it is gone: 'optim_spec.lr' may be a schedule "
    "({name: linear_decay, start_val: 1e-3, end_val: 0, end_step: 100000})",
    "max_tick": "write 'env.max_frame', in frames",
    "max_tick_unit": "it is gone: every budget counts frames ('env.max_frame')",
    "reward_scale": "it is gone: returns are reported raw; scale rewards inside the environment",
    "rigorous_eval": "it is gone: 'meta.eval_frequency' turns greedy evaluation on",
    "training_batch_epoch": "it is called 'training_batch_iter'",
    "training_epoch": "it is called 'training_iter'",
}


def where(at: At) -> str:
    """`file:line`, `--set key=value`, or an empty string."""
    return f"{at[0]}:{at[1]}" if at[1] else at[0]


def fail(message: str, at: At = ("", 0), path: str = "") -> SpecError:
    """The error to raise: place, key and message as one line of text."""
    return SpecError(brief(": ".join(part for part in (where(at), path, message) if part), LONGEST), path)


def locate(error: SpecError, spec: Spec) -> SpecError:
    """An error that a check raised about a key of `spec`, with the place of that key and its path before its message.

    An error that says its place already is returned as it is.
    """
    prefix = ": ".join(part for part in (spec.source.where(error.path), error.path) if part)
    if not prefix or error.message.startswith(f"{prefix}: "):
        return error
    return SpecError(f"{prefix}: {error.message}", error.path)


def show(value: Any) -> str:
    """A value as a message names it: short, on one line, in the words of YAML."""
    if value is None:
        return "null"
    if isinstance(value, dict) or dataclasses.is_dataclass(value):
        return "a mapping"
    if isinstance(value, tuple):
        return brief(str(list(value)))
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return "a number beyond 64 bits"
    if isinstance(value, str) and len(value) > SHOWN:
        return repr(value[:SHOWN]) + "..."
    return repr(value)


def brief(text: str, most: int = SHOWN) -> str:
    """A text cut to what a message can carry, on one line."""
    cut = text if len(text) <= most else text[:most] + "..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


def expect(kind: type, value: Any, wanted: str) -> None:
    """For what people hand to a function by mistake.

    Raises:
        UserError: `value` is no `kind`, which `wanted` says in words.
    """
    if not isinstance(value, kind):
        raise UserError(f"expected {wanted}, got {show(value)}.")


def refuse_unread(section: Any, where: str, why: str, *names: str) -> None:
    """A key that changes nothing is a mistake that its writer would like to hear of.

    Raises:
        SpecError: a key of `section`, which is at `where` in the spec, has not its default; `why` nothing reads it.
    """
    usual = {field.name: field.default for field in dataclasses.fields(section)}
    for name in names:
        if name in usual and getattr(section, name) != usual[name]:
            raise SpecError(f"nothing reads it: {why}. Got {show(getattr(section, name))}.", f"{where}.{name}")


def unknown(keys: list[str], valid: list[str]) -> str:
    """The message for keys that do not exist: each with the nearest valid one, or with what became of it."""
    said = " ".join(f"unknown key {show(key)}{_instead(key, valid)}" for key in keys)
    return f"{said} Expected one of: {', '.join(valid)}."


def _instead(key: str, valid: list[str]) -> str:
    if key == "training_epoch" and "training_iter" not in valid:
        return "." + nearest(key, valid)
    return f": {MOVED[key]}." if key in MOVED else "." + nearest(key, valid)
