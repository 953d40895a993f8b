"""The tree between a file and its typed values: plain values, each with the place where it was written."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from slmjax.spec.errors import At, fail, show

DEPTH = 50  # levels of nesting
NODES = 50_000  # values of one spec, aliases expanded
BYTES = 1 << 20  # of one file

NOWHERE: At = ("", 0)
PLACEHOLDER = re.compile(r"\$\{([^{}\s]*)\}")

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
# YAML 1.2's core schema, and digits grouped by `_`. PyYAML's own table is YAML 1.1: `1e-3` a string, `no` a bool.
KINDS = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(rf"(?:[-+]?{_DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+)\Z"),
    "float": re.compile(
        rf"(?:[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}


class Node(NamedTuple):
    """A value and its place.

    Attributes:
        value: None, bool, int, float, str, `Template`, `list[Node]` or `dict[str, Node]`.
        at: (file, line); for a value in a mapping, the line of its key.
        partial: True for a mapping that only `--set` made, so that the keys it lacks keep their resolved values.
    """

    value: Any
    at: At
    partial: bool = False


class Template(NamedTuple):
    """Text with `${name}` in it; `plain` when what replaces it may be a number, False when it was quoted."""

    text: str
    plain: bool


def scalar(text: str, kind: str, at: At) -> Any:
    """The value of a scalar of a given kind ('null', 'bool', 'int', 'float', 'str').

    Raises:
        SpecError: the text is not of that kind (after an explicit tag), or an infinite number.
    """
    if kind not in KINDS:
        return clean(text)
    if not KINDS[kind].match(text) and not (kind == "float" and KINDS["int"].match(text)):
        raise fail(f"expected a value of type {kind}, got {show(text)}", at)
    if kind in ("null", "bool"):
        return None if kind == "null" else text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    if len(text) > 100:
        raise fail(f"expected a number that fits 64 bits, got one of {len(text)} digits", at)
    return int(text, base)


def plain(text: str, at: At) -> Any:
    """The value of an unquoted scalar: a number, a bool, null, or the text itself."""
    return scalar(text, next((kind for kind, pattern in KINDS.items() if pattern.match(text)), "str"), at)


def clean(text: str) -> str:
    """Text without lone surrogates (JSON can spell them, nothing can print them)."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def text_node(text: str, quoted: bool, kind: str, at: At) -> Node:
    """The node of a scalar as written; one with a placeholder waits for `fill`."""
    if PLACEHOLDER.search(text):
        return Node(Template(clean(text), not quoted), at)
    return Node(scalar(text, kind, at), at)


def from_python(value: Any, budget: Iterator[int], at: At = NOWHERE, path: str = "", depth: int = 0) -> Node:
    """The node of a Python value: nested mappings and sequences of plain values (NumPy scalars count as plain).

    Raises:
        SpecError: something else in it, too deep, or too large.
    """
    if depth > DEPTH or next(budget) > NODES:
        raise fail(f"nested deeper than {DEPTH} levels, or more than {NODES} values", at, path)
    if isinstance(value, Mapping):
        step = lambda key: f"{path}.{key}" if path else str(key)  # noqa: E731
        items = {clean(str(key)): from_python(entry, budget, at, step(key), depth + 1) for key, entry in value.items()}
        return Node(items, at)
    if isinstance(value, (list, tuple)):
        items_ = [from_python(entry, budget, at, f"{path}.{i}", depth + 1) for i, entry in enumerate(value)]
        return Node(items_, at)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str):
        return text_node(str(value), False, "str", at)
    if value is None or isinstance(value, bool):
        return Node(value, at)
    if isinstance(value, (int, float)):  # also their subclasses, which would not survive `dump_spec`
        return Node(int(value) if isinstance(value, int) else float(value), at)
    raise fail(f"expected a plain value, got one of type {type(value).__name__}", at, path)


def to_python(node: Node) -> Any:
    """The plain value of a node: what `from_python` was given, with dicts and lists."""
    if isinstance(node.value, dict):
        return {key: to_python(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [to_python(child) for child in node.value]
    return node.value


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node with its dotted path, parents first; entries of lists are numbered."""
    yield path, node
    children = enumerate(node.value) if isinstance(node.value, list) else ()
    for key, child in node.value.items() if isinstance(node.value, dict) else children:
        yield from walk(child, f"{path}.{key}" if path else str(key))
