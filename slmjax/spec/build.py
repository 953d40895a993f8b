"""Nodes -> `@hyper` dataclasses: unknown and missing keys, types, limits."""

import dataclasses
import math
import types
import typing
from typing import Any

from slmjax.spec import schema
from slmjax.spec.errors import fail, show, unknown
from slmjax.spec.nodes import Node, to_python, walk
from slmjax.spec.schema import Key
from slmjax.types import SpecError

_LARGEST = 2**63
_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false", types.NoneType: "null"}
_MANY = {int: "integers", float: "numbers", str: "strings", bool: "true or false"}


def build(cls: type, node: Node, path: str, base: Any = None, limits: Key | None = None) -> Any:
    """An instance of a `@hyper` dataclass from a mapping, every key checked.

    Args:
        cls: the dataclass.
        node: the mapping; a missing one is `Node({}, at)`.
        path: its dotted key.
        base: an instance whose values the missing keys of a partial node (`--set`) take, instead of the defaults.
        limits: of the enclosing key (`float | Schedule`), for numbers without limits of their own.

    Raises:
        SpecError: at the first thing that is wrong; all unknown keys of one mapping at once.
    """
    hints, keys = schema.hints(cls), schema.keys(cls)
    written = fields(node, path, list(hints))
    values = {name: _default(field, hints[name]) for name, field in _optional(cls).items()}
    if node.partial and isinstance(base, cls):
        values = {name: getattr(base, name) for name in hints}
    missing = [name for name in hints if name not in values and name not in written]
    if missing:
        listed = ", ".join(f"{name!r} ({describe(hints[name], keys[name])})" for name in missing)
        raise fail(f"missing required key{'s' * (len(missing) > 1)} {listed}", node.at, path)
    for name, child in written.items():
        key = keys[name] if limits is None or _limited(keys[name]) else dataclasses.replace(limits, choices=None)
        values[name] = convert(hints[name], child, f"{path}.{name}", key, values.get(name))
    try:
        made = cls(**values)
        if hasattr(made, "check"):
            made.check()
        return made
    except SpecError as error:
        at = written.get(error.path.removeprefix(f"{path}."), node).at
        raise fail(error.message, at, error.path or path) from None
    except ValueError as error:
        raise fail(str(error), node.at, path) from None


def fields(node: Node, path: str, valid: list[str]) -> dict[str, Node]:
    """The entries of a mapping whose keys are all valid.

    Raises:
        SpecError: not a mapping, or unknown keys (all of them named).
    """
    if not isinstance(node.value, dict):
        raise fail(f"expected a mapping, got {show(node.value)}{_early(node, path)}", node.at, path)
    strange = [name for name in node.value if name not in valid]
    if strange:
        at = node.value[strange[0]].at
        raise fail(unknown(strange, valid), at, f"{path}.{strange[0]}" if path else strange[0])
    return node.value


def convert(annotation: Any, node: Node, path: str, key: Key, base: Any = None) -> Any:
    """The value of one key.

    Raises:
        SpecError: not of the annotated type, not finite, or beyond the limits of the key.
    """
    finite(node, path)
    members = schema.members(annotation)
    value = node.value
    if value is None and (types.NoneType in members or Any in members):
        return None
    if isinstance(value, dict):
        return _mapping(members, node, path, key, base)
    if isinstance(value, list):
        return _sequence(members, node, path, key)
    made = _scalar(members, value)
    if made is None or not _within(made, key):
        quote = "; quote it" if str in members and isinstance(value, (int, float)) else ""
        raise fail(f"expected {describe(annotation, key)}, got {show(value)}{quote}", node.at, path)
    return made


def finite(node: Node, path: str) -> None:
    """Raises `SpecError` for a number anywhere in a tree that is NaN, infinite or an integer beyond 64 bits."""
    for place, part in walk(node, path):
        value = part.value
        endless = isinstance(value, float) and not math.isfinite(value)
        if endless or (isinstance(value, int) and not -_LARGEST <= value < _LARGEST):
            raise fail(f"expected a finite number, got {show(value)}", part.at, place)


def describe(annotation: Any, key: Key) -> str:
    """What a key may hold, in words: `an integer >= 1, or null`."""
    limits = [("> ", key.above), (">= ", key.low), ("<= ", key.high)]
    beyond = " and ".join(f"{sign}{limit:.12g}" for sign, limit in limits if limit is not None)
    words = [_word(member, key) for member in schema.members(annotation)]
    numeric = [word + f" {beyond}" * bool(beyond and "null" not in word and "mapping" not in word) for word in words]
    return " or ".join(dict.fromkeys(numeric))


def _word(member: Any, key: Key) -> str:
    if member is str and key.choices:
        return "one of " + ", ".join(repr(choice) for choice in key.choices)
    if typing.get_origin(member) is tuple:
        inner = typing.get_args(member)
        of = _MANY.get(inner[0], "lists") if len(set(inner) - {Ellipsis}) == 1 else "values"
        return f"a list of {of}" if Ellipsis in inner else f"a list of {len(inner)} {of}"
    if schema.is_hyper(member) or typing.get_origin(member) is dict or member is dict:
        return "a mapping"
    return _WORDS.get(member, "a value")


def _mapping(members: tuple[Any, ...], node: Node, path: str, key: Key, base: Any) -> Any:
    for member in members:
        if schema.is_hyper(member):
            return build(member, node, path, base, key if float in members else None)
        if typing.get_origin(member) is dict:
            kind = typing.get_args(member)[1]
            return {name: convert(kind, child, f"{path}.{name}", Key("")) for name, child in node.value.items()}
    if Any in members or dict in members:
        return to_python(node)
    raise fail(f"expected {describe(_union(members), key)}, got a mapping", node.at, path)


def _sequence(members: tuple[Any, ...], node: Node, path: str, key: Key) -> Any:
    for member in members:
        if typing.get_origin(member) is not tuple:
            continue
        kinds = typing.get_args(member)
        kinds = kinds[:1] * len(node.value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(node.value):
            pairs = enumerate(zip(kinds, node.value, strict=True))
            return tuple(convert(kind, child, f"{path}.{i}", key) for i, (kind, child) in pairs)
    if Any in members:
        return to_python(node)
    size = f" of {len(node.value)}" if any(typing.get_origin(member) is tuple for member in members) else ""
    raise fail(f"expected {describe(_union(members), key)}, got a list{size}", node.at, path)


def _scalar(members: tuple[Any, ...], value: Any) -> Any:
    """The value as one of the types allowed, or None: an integer is a number, 1e5 an integer, nothing else is cast."""
    if type(value) in members or (Any in members and value is not None):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and float in members:
        return float(value)
    if isinstance(value, float) and int in members and value.is_integer() and abs(value) < _LARGEST:
        return int(value)
    return None


def _within(value: Any, key: Key) -> bool:
    if isinstance(value, str):
        return key.choices is None or value in key.choices
    if isinstance(value, bool):
        return True
    low, high = (-math.inf if key.low is None else key.low), (math.inf if key.high is None else key.high)
    return low <= value <= high and (key.above is None or value > key.above)


def _limited(key: Key) -> bool:
    return any(limit is not None for limit in (key.low, key.high, key.above, key.choices))


def _optional(cls: type) -> dict[str, dataclasses.Field[Any]]:
    needed = schema.required(cls)
    return {field.name: field for field in dataclasses.fields(cls) if field.name not in needed}


def _default(field: dataclasses.Field[Any], annotation: Any) -> Any:
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    members = schema.members(annotation)
    # A default written `1` for a float is a leaf of another dtype than a `1.0` from a file: another compile signature.
    return float(value) if type(value) is int and float in members and int not in members else value


def _union(members: tuple[Any, ...]) -> Any:
    return typing.Union[members]  # noqa: UP007 (of a tuple)


def _early(node: Node, path: str) -> str:
    if not isinstance(node.value, list) or path not in ("agent", "env"):
        return ""
    return f"; SLM Lab's early specs wrote a list here: write the mapping inside of it (`{path}: {{name: ...}}`)"
