"""What a person changes from outside of a file: `--set key=value`, and the values of `${placeholders}`."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from slmjax.registry import nearest
from slmjax.spec.errors import At, brief, fail, show
from slmjax.spec.nodes import DEPTH, PLACEHOLDER, Node, Template, clean, from_python, plain, walk
from slmjax.spec.reader import value_of
from slmjax.types import SpecError

SECTIONS = ("name", "agent", "env", "meta", "search")


class Edits(NamedTuple):
    """What `--set` and `variables` ask for.

    Attributes:
        keys: (dotted path, value) in the order given.
        variables: placeholder -> value.
    """

    keys: list[tuple[str, Node]]
    variables: dict[str, Any]


def parse(overrides: Iterable[str], variables: Mapping[str, Any] | None, names: set[str]) -> Edits:
    """The edits that `--set` texts ask for; `names` are the placeholders that the spec holds.

    Raises:
        SpecError: a text without `=`, or broken YAML after it.
    """
    keys: list[tuple[str, Node]] = []
    values = dict(variables or {})
    for text in [overrides] if isinstance(overrides, str) else overrides:
        path, equals, value = (part.strip() for part in str(text).partition("="))
        at = (f"--set {brief(text)}", 0)
        if not equals or not path:
            raise fail("expected 'dotted.key=value'", at)
        if path in names:
            values[path] = value
        else:
            keys.append((path, value_of(clean(value), at)))
    return Edits(keys, values)


def apply(root: Node, edits: Edits) -> Node:
    """The tree with keys overridden and placeholders filled.

    Raises:
        SpecError: a placeholder without a value, or a value that meets no key and no placeholder.
    """
    names = placeholders(root)
    for name in edits.variables:
        if name not in names:
            raise fail(
                f"the variable {show(name)} fills nothing: there is no ${{{name}}} here.{nearest(name, [*names])}"
            )
    for path, value in edits.keys:
        parts = path.split(".")
        parts = ["search", path.removeprefix("search.")] if path.startswith("search.") else parts
        if len(parts) > DEPTH:
            raise fail(f"nested deeper than {DEPTH} levels", value.at)
        root = _put(root, parts, value)
    return _fill(root, edits.variables)


def placeholders(root: Node) -> set[str]:
    """Names of the placeholders in a tree."""
    templates = (node.value for _, node in walk(root) if isinstance(node.value, Template))
    return {name for template in templates for name in PLACEHOLDER.findall(template.text)}


def nowhere(path: str, at: At, root: Node, valid: Iterable[str]) -> SpecError:
    """The error for a `--set` without a dot that meets no section and no placeholder; `valid` are all dotted keys."""
    same = [key for key in valid if key.rpartition(".")[2] == path]
    near = f" Did you mean {same[0]!r}?" if same else nearest(path, [*valid, *placeholders(root), *SECTIONS])
    return fail(f"there is no key {show(path)} and no placeholder ${{{path}}}.{near}", at)


def _put(node: Node, parts: list[str], value: Node) -> Node:
    """The tree with one value set. A mapping that is not there is made, a scalar in its place is dropped."""
    if not parts:
        return value
    written = isinstance(node.value, dict)
    items = node.value if written else {}
    child = items.get(parts[0], Node({}, value.at, partial=True))
    return Node({**items, parts[0]: _put(child, parts[1:], value)}, node.at if written else value.at, node.partial)


def _fill(node: Node, variables: Mapping[str, Any]) -> Node:
    if isinstance(node.value, dict):
        return node._replace(value={key: _fill(child, variables) for key, child in node.value.items()})
    if isinstance(node.value, list):
        return node._replace(value=[_fill(child, variables) for child in node.value])
    if not isinstance(node.value, Template):
        return node
    text = node.value.text
    for name in PLACEHOLDER.findall(text):
        if name not in variables:
            raise fail(f"the placeholder ${{{name}}} has no value; give one with --set {name or 'name'}=...", node.at)
    whole = PLACEHOLDER.fullmatch(text)
    filled = _whole(variables[whole[1]], node.at) if whole else _within(node.value, variables, node.at)
    if any(isinstance(part.value, Template) for _, part in walk(filled)):
        raise fail(f"the value of {show(text)} holds a placeholder itself", node.at)
    return filled


def _whole(value: Any, at: At) -> Node:
    """A value that stands alone keeps its type: `${layers}` may become a list."""
    if not isinstance(value, str):
        return from_python(value, itertools.count(), at)
    return value_of(clean(value), at)


def _within(template: Template, variables: Mapping[str, Any], at: At) -> Node:
    """A value inside of a longer text is text, and the whole is then read as if it had been written so."""
    text = PLACEHOLDER.sub(lambda match: _word(variables[match[1]], match[1], at), template.text)
    if PLACEHOLDER.search(text):
        return Node(Template(text, template.plain), at)
    return Node(plain(clean(text), at) if template.plain else clean(text), at)


def _word(value: Any, name: str, at: At) -> str:
    if not isinstance(value, (str, int, float)):
        raise fail(f"expected a string or a number for ${{{name}}}, got one of type {type(value).__name__}", at)
    return str(value).lower() if isinstance(value, bool) else str(value)
