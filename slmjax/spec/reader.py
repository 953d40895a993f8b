"""Files and dicts -> nodes with positions: safe, strict YAML 1.2 (hence JSON), bounded in size."""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from slmjax.spec.errors import At, fail, show
from slmjax.spec.files import mark, text_of, unmark
from slmjax.spec.nodes import DEPTH, KINDS, NODES, NOWHERE, Node, clean, from_python, text_node
from slmjax.types import SpecError

_TAG = "tag:yaml.org,2002:"
_TAGS = {*KINDS, "str", "seq", "map", "merge"}


class Document(NamedTuple):
    """A file or dict of specs: the top-level keys, each expanded only when asked for.

    Attributes:
        entries: key -> function that returns its node; anchors (`_` keys) left out.
        file: as the user gave it; '' for a dict.
        default_name: of the one spec that a file without names holds.
    """

    entries: dict[str, Callable[[], Node]]
    file: str
    default_name: str


class _Composer(yaml.SafeLoader):
    """PyYAML's parser with the limits, tags and duplicate keys checked while the tree is made."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's own name; filled below)

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file, self.level, self.made = file, 0, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1
        self.level, self.made = self.level + 1, self.made + 1
        if self.level > DEPTH + 2 or self.made > NODES:
            raise _too_large((self.file, line))
        node = super().compose_node(parent, index)
        self.level -= 1
        if node is not None and node.tag.removeprefix(_TAG) not in _TAGS:
            tag = node.tag.replace(_TAG, "!!")
            raise fail(f"the tag {show(tag)} is not allowed: a spec holds plain values", (self.file, line))
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            at = (self.file, key.start_mark.line + 1)
            if not isinstance(key, yaml.ScalarNode):
                raise fail("expected a string as key, got a list or a mapping", at)
            if key.value in lines:
                raise fail(f"duplicate key {show(key.value)}, first written on line {lines[key.value]}", at)
            lines[key.value] = at[1]
        return node


for _kind, _pattern in KINDS.items():
    _Composer.add_implicit_resolver(_TAG + _kind, _pattern, None)
_Composer.add_implicit_resolver(_TAG + "merge", re.compile(r"<<\Z"), None)


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> Document:
    """The specs of a .yaml, .yml or .json file, or of a dict.

    Raises:
        SpecError: unreadable, empty, broken, hostile, or not a mapping.
    """
    if isinstance(source, Mapping):
        return _read_dict(source)
    if not isinstance(source, (str, os.PathLike)):
        raise fail(f"expected the path of a spec or a dict, got {type(source).__name__}")
    file = os.fspath(source)
    root = compose(text_of(file), file)
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
        raise fail("the file is empty", (file, 1))
    if not isinstance(root, yaml.MappingNode):
        raise fail(f"expected a mapping (of 'agent' and 'env', or of named specs), got {_kind_of(root)}", (file, 1))
    budget = itertools.count()
    pairs = _pairs(root, file, budget, 0)
    entries = {key: _expander(line, value, file, budget) for key, (line, value) in pairs.items() if key[:1] != "_"}
    return Document(entries, file, Path(file).stem)


def value_of(text: str, at: At) -> Node:
    """The node of a value on the command line: a scalar as it stands, or a YAML list, mapping or quoted string.

    Raises:
        SpecError: broken YAML.
    """
    if text[:1] not in ("[", "{", '"', "'"):
        kind = next((kind for kind, pattern in KINDS.items() if pattern.match(text)), "str")
        return text_node(text, False, kind, at)
    try:
        return _placed(expand(compose(mark(text), "value"), "value", itertools.count(), 0), at)
    except SpecError as error:
        raise fail(error.message, at) from None


def compose(text: str, file: str) -> Any:
    """The PyYAML node of a text; None for an empty one.

    Raises:
        SpecError: broken syntax, a tag, a duplicate key, too deep, too many values; with line and column.
    """
    try:
        root = _Composer(text, file).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise fail(f"a control character (code {error.character}) that YAML does not allow", (file, line)) from None
    except yaml.MarkedYAMLError as error:
        raise _broken(error, file) from None
    except SpecError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, OverflowError, RecursionError) as error:  # PyYAML's own slips
        raise fail(f"broken YAML ({type(error).__name__})", (file, 1)) from None
    return root


def expand(node: Any, file: str, budget: Iterator[int], depth: int) -> Node:
    """The `Node` of a PyYAML node, with aliases and merge keys (`<<`) written out.

    Raises:
        SpecError: too deep, too many values, or a merge of something that is no mapping.
    """
    at = (file, node.start_mark.line + 1)
    if depth > DEPTH or next(budget) > NODES:
        raise _too_large(at)
    if isinstance(node, yaml.SequenceNode):
        return Node([expand(child, file, budget, depth + 1) for child in node.value], at)
    if isinstance(node, yaml.MappingNode):
        pairs = _pairs(node, file, budget, depth)
        items = {key: expand(value, file, budget, depth + 1) for key, (_, value) in pairs.items()}
        return Node({key: child._replace(at=(file, pairs[key][0])) for key, child in items.items()}, at)
    return text_node(unmark(node.value), node.style is not None, node.tag.removeprefix(_TAG), at)


def _expander(line: int, node: Any, file: str, budget: Iterator[int]) -> Callable[[], Node]:
    return lambda: expand(node, file, budget, 0)._replace(at=(file, line))


def _pairs(node: Any, file: str, budget: Iterator[int], depth: int) -> dict[str, tuple[int, Any]]:
    """Key -> (line, PyYAML node): own keys first, then those of merges, of which the first wins."""
    if depth > DEPTH:
        raise _too_large((file, node.start_mark.line + 1))
    own: dict[str, tuple[int, Any]] = {}
    merged: dict[str, tuple[int, Any]] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if next(budget) > NODES:
            raise _too_large((file, line))
        if key.tag == _TAG + "merge":
            merged |= _merge(value, (file, line), budget, depth)
        else:
            own[unmark(clean(key.value))] = (line, value)
    return merged | own


def _merge(value: Any, at: At, budget: Iterator[int], depth: int) -> dict[str, tuple[int, Any]]:
    bases = value.value if isinstance(value, yaml.SequenceNode) else [value]
    merged: dict[str, tuple[int, Any]] = {}
    for base in reversed(bases):
        if not isinstance(base, yaml.MappingNode):
            raise fail(f"expected a mapping, or a list of mappings, after '<<', got {_kind_of(base)}", at)
        merged |= _pairs(base, at[0], budget, depth + 1)
    return merged


def _placed(node: Node, at: At) -> Node:
    """The same tree, every node of it at one place."""
    if isinstance(node.value, dict):
        return Node({key: _placed(child, at) for key, child in node.value.items()}, at)
    if isinstance(node.value, list):
        return Node([_placed(child, at) for child in node.value], at)
    return node._replace(at=at)


def _read_dict(source: Mapping[str, Any]) -> Document:
    entry = lambda value, path: lambda: from_python(value, itertools.count(), NOWHERE, path)  # noqa: E731
    entries = {str(key): entry(value, str(key)) for key, value in source.items() if str(key)[:1] != "_"}
    return Document(entries, "", "spec")


def _too_large(at: At) -> SpecError:
    return fail(
        f"nested deeper than {DEPTH} levels, or more than {NODES} values (an alias inside of itself, or aliases of "
        "aliases?)",
        at,
    )


def _broken(error: yaml.MarkedYAMLError, file: str) -> SpecError:
    mark = error.problem_mark or error.context_mark
    said = unmark(": ".join(part for part in (error.context, error.problem) if part))
    if not mark:
        return fail(f"broken YAML: {said}", (file, 1))
    return fail(f"broken YAML: column {mark.column + 1}: {said}", (file, mark.line + 1))


def _kind_of(node: Any) -> str:
    kinds = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}
    return kinds.get(type(node)) or show(unmark(node.value))
