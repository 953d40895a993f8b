"""How a room declares the keys that a spec may hold: `@hyper` dataclasses whose fields are data or static.

A field annotated `float`, or holding another `@hyper` dataclass (a schedule, an optimiser), is *data*: it may differ
between the sessions of one compiled program. Every other field (int, bool, str, tuple) is *static*: it is part of the
tree structure, hence of the compile signature. So `jax.tree.structure(hp)` groups what can share a program.
"""

import dataclasses
import types
import typing
from typing import Any, dataclass_transform

import jax

_REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Key:
    """What the loader and the documentation know of one key beyond its type.

    Attributes:
        doc: what it does, with its unit; one line.
        low: the smallest value allowed.
        high: the largest value allowed.
        above: the value must be greater than this.
        choices: the values allowed.
    """

    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] | None = None


class Fixed(dict[str, Any]):
    """A mapping as a static value: hashable, as all parts of a compile signature must be."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


def key(
    default: Any = _REQUIRED,
    *,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declares a key of a `@hyper` dataclass: its default (none: required), meaning and limits."""
    return dataclasses.field(default=default, metadata={"key": Key(doc, low, high, above, choices)})


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union (`float | Schedule | None`), or the annotation alone."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return (annotation,)


def is_hyper(annotation: Any) -> bool:
    """True for a class that `@hyper` made."""
    return getattr(annotation, "__hyper__", False)


def is_data(annotation: Any) -> bool:
    """True when a field with this annotation is data (a float or a nested `@hyper`), False when it is static."""
    return any(member is float or is_hyper(member) for member in members(annotation))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(key,))
def hyper(cls: type) -> type:
    """A frozen, keyword-only dataclass, registered as a pytree with its float and nested fields as data.

    A mapping given for a static field becomes `Fixed`, before the class's own `__post_init__` runs.
    """
    own = getattr(cls, "__post_init__", None)

    def fix(self: Any) -> None:
        for name in static:
            if type(value := getattr(self, name)) is dict:
                object.__setattr__(self, name, Fixed(value))
        if own is not None:
            own(self)

    cls.__post_init__ = fix  # type: ignore[attr-defined]
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    hints = typing.get_type_hints(made)
    fields = [f.name for f in dataclasses.fields(made)]
    data = [name for name in fields if is_data(hints[name])]
    static = [name for name in fields if name not in data]
    jax.tree_util.register_dataclass(made, data, static)
    made.__hyper__ = True
    return made  # type: ignore[no-any-return]


def hints(cls: type) -> dict[str, Any]:
    """Field name -> annotation of a `@hyper` dataclass, in the order of declaration."""
    resolved: dict[str, Any] = typing.get_type_hints(cls)
    return {f.name: resolved[f.name] for f in dataclasses.fields(cls)}


def keys(cls: type) -> dict[str, Key]:
    """Field name -> `Key` of a `@hyper` dataclass."""
    return {f.name: f.metadata.get("key", Key("")) for f in dataclasses.fields(cls)}


def required(cls: type) -> list[str]:
    """Names of the keys without a default."""
    return [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
