"""What the user writes -> a resolved `Spec`: files, dicts, `--set`, and the three parts that the registry knows."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from slmjax import registry
from slmjax.spec import edits, schema
from slmjax.spec.build import build, convert, fields, finite
from slmjax.spec.dump import to_dict
from slmjax.spec.errors import fail, show
from slmjax.spec.nodes import Node, Template, to_python, walk
from slmjax.spec.reader import Document, read
from slmjax.spec.schema import Key
from slmjax.spec.sections import AgentSpec, EnvSpec, MetaSpec, Source, Spec
from slmjax.types import Algorithm, Memory, Network, SpecError, UserError

_NAME = re.compile(r"\w[\w .+=,@()-]*\Z")  # it becomes the name of a folder
_LONGEST_NAME = 100  # bytes of UTF-8, which file systems count, not letters; dates and endings are added


def load_spec(
    source: str | os.PathLike[str] | Mapping[str, Any],
    name: str | None = None,
    overrides: Iterable[str] = (),
    variables: Mapping[str, Any] | None = None,
) -> Spec:
    """One resolved spec: every key checked, every default filled in.

    Args:
        source: a .yaml, .yml or .json file, or a dict of the same shape.
        name: which of several specs; None where there is one.
        overrides: `dotted.key=value` texts (`--set`), any key; or `var=value` for a placeholder `${var}`.
        variables: further values of placeholders.

    Raises:
        SpecError: something is wrong; its text is the whole message, with place, key, and what was expected.
    """
    document = read(source)
    chosen, root = _select(document, name)
    known = edits.placeholders(root)
    wanted = edits.parse(overrides, variables, known)
    stray = [(path, value) for path, value in wanted.keys if "." not in path and path not in edits.SECTIONS]
    if stray:
        rest = wanted._replace(keys=[pair for pair in wanted.keys if pair not in stray])
        raise edits.nowhere(stray[0][0], stray[0][1].at, root, _keys_of(chosen, root, rest))
    return _resolve(chosen, edits.apply(root, wanted))


def names(path: str | os.PathLike[str] | Mapping[str, Any]) -> list[str]:
    """Names of the specs that a file (or dict) holds, in its order.

    Raises:
        SpecError: the file cannot be read.
    """
    document = read(path)
    return [_single_name(document)] if _is_single(document) else list(document.entries)


def _is_single(document: Document) -> bool:
    return any(section in document.entries for section in ("agent", "env", "meta"))


def _single_name(document: Document) -> str:
    written = document.entries["name"]().value if "name" in document.entries else None
    written = written.text if isinstance(written, Template) else written
    return written if isinstance(written, str) else document.default_name


def _select(document: Document, name: str | None) -> tuple[str, Node]:
    """The name and the tree of the spec asked for."""
    at = (document.file, 0)
    if _is_single(document):
        only = _single_name(document)
        if name not in (None, only) and (document.file or "name" in document.entries):
            raise fail(f"there is no spec {show(name)}; the file holds one, {only!r}", at)
        root = {key: entry() for key, entry in document.entries.items()}
        return name or only, Node(root, (document.file, 1 if document.file else 0))
    held = list(document.entries)
    if not held:
        raise fail("expected a spec (a mapping with 'agent' and 'env'), got none", at)
    if name is None and len(held) > 1:
        raise fail(f"holds {len(held)} specs, name one of them: {', '.join(held)}", at)
    chosen = held[0] if name is None else name
    if chosen not in held:
        near = difflib.get_close_matches(chosen, held, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise fail(f"there is no spec {show(chosen)}.{hint} It holds: {', '.join(held)}.", at)
    return chosen, document.entries[chosen]()


def _resolve(chosen: str, root: Node) -> Spec:
    written = fields(root, "", list(edits.SECTIONS))
    missing = [section for section in ("agent", "env") if section not in written]
    if missing:
        raise fail(f"missing required key{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}", root.at)
    name = _name(written.get("name", Node(chosen, root.at)))
    return Spec(
        name=name,
        agent=_agent(written["agent"]),
        env=_env(written["env"]),
        meta=build(MetaSpec, written.get("meta", Node({}, root.at)), "meta"),
        search=_search(written.get("search")),
        source=Source({path: node.at for path, node in walk(root) if node.at[0]}),
    )


def _name(node: Node) -> str:
    name = convert(str, node, "name", Key(""))
    if not _NAME.match(name) or len(name.encode()) > _LONGEST_NAME:
        raise fail(
            f"expected a name that can be that of a folder, of at most {_LONGEST_NAME} bytes, got {show(name)}",
            node.at,
            "name",
        )
    return str(name)


def _agent(node: Node) -> AgentSpec:
    written = fields(node, "agent", list(schema.hints(AgentSpec)))
    if "algorithm" not in written:
        raise fail("missing required key 'algorithm' (a mapping with 'name')", node.at, "agent")
    part = written["algorithm"]
    name = _part_name(part, "agent.algorithm", "name", None)
    algorithm = _registered("algorithm", name, part, "agent.algorithm.name")
    _expect(algorithm, Algorithm, name, part, "agent.algorithm.name")
    label = convert(str, written["name"], "agent.name", Key("")) if "name" in written else ""
    return AgentSpec(
        name=label or name,
        algorithm=_hyper(algorithm.hyper, part, "agent.algorithm", "name", name),
        memory=_memory(written.get("memory", Node(None, node.at)), name, algorithm),
        net=_net(written.get("net", Node(None, node.at)), algorithm),
    )


def _memory(node: Node, algorithm_name: str, algorithm: Algorithm) -> Any:
    path = "agent.memory"
    if node.value is None and not algorithm.memories:
        return None
    if not algorithm.memories:
        raise fail(f"{algorithm_name} remembers nothing: expected null, got {show(node.value)}", node.at, path)
    part = Node({}, node.at) if node.value is None else node
    name = _part_name(part, path, "name", algorithm.memories[0])
    memory = _registered("memory", name, part, f"{path}.name")
    _expect(memory, Memory, name, part, f"{path}.name")
    kinds = {registry.resolve("memory", known).kind for known in algorithm.memories}
    if memory.kind not in kinds:
        can = ", ".join(n for n in registry.names("memory") if registry.resolve("memory", n).kind in kinds)
        can += ", or `module:attribute` of one of the same kind"
        at = part.value["name"].at if "name" in part.value else part.at
        raise fail(f"{algorithm_name} cannot learn from {name!r}; it can learn from: {can}", at, f"{path}.name")
    preset = {key: Node(value, part.at) for key, value in memory.preset.items()}
    return _hyper(memory.hyper, part._replace(value={**preset, **part.value}), path, "name", name)


def _net(node: Node, algorithm: Algorithm) -> Any:
    part = Node({}, node.at) if node.value is None else node
    kind = _part_name(part, "agent.net", "type", "MLPNet")
    network = _registered("net", kind, part, "agent.net.type")
    _expect(network, Network, kind, part, "agent.net.type")
    has = schema.hints(network.hyper)
    preset = {key: Node(value, part.at) for key, value in algorithm.net.items() if key in has}
    return _hyper(network.hyper, part._replace(value={**preset, **part.value}), "agent.net", "type", kind)


def _expect(found: Any, wanted: type, name: str, node: Node, path: str) -> None:
    """Refuses a name that stands for something of another kind."""
    if isinstance(found, wanted):
        return
    got = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
    at = node.value.get(path.rpartition(".")[2], node).at
    raise fail(f"expected an slmjax.types.{wanted.__name__} behind {name!r}, got {got}", at, path)


def _part_name(node: Node, path: str, label: str, default: str | None) -> str:
    """The registered name that a part of the agent asks for."""
    if not isinstance(node.value, dict):
        raise fail(f"expected a mapping with {label!r}, got {show(node.value)}", node.at, path)
    if label not in node.value:
        if default is None:
            known = ", ".join(registry.names(path.rpartition(".")[2]))
            raise fail(f"missing required key {label!r} (one of {known})", node.at, path)
        return default
    return str(convert(str, node.value[label], f"{path}.{label}", Key("")))


def _registered(kind: str, name: str, node: Node, path: str) -> Any:
    at = node.value.get(path.rpartition(".")[2], node).at
    try:
        if len(name) > 100:
            raise UserError(f"unknown {kind} {show(name)}")
        return registry.resolve(kind, name)
    except UserError as error:
        raise fail(str(error), at, path) from None


def _hyper(cls: Any, node: Node, path: str, label: str, name: str) -> Any:
    """The part of an agent, its registered name filled in."""
    if not schema.is_hyper(cls) or label not in schema.hints(cls):
        raise fail(f"expected a @hyper dataclass with the key {label!r} behind {name!r}", node.at, path)
    place = node.value.get(label, node).at
    return build(cls, node._replace(value={label: Node(name, place), **node.value}), path)


def _env(node: Node) -> EnvSpec:
    env: EnvSpec = build(EnvSpec, node, "env")
    if env.name not in registry.TABLES["env"] and not registry.is_target(env.name):
        known = registry.names("env")
        message = f"unknown env {show(env.name)}.{registry.nearest(env.name, known)} Known: {', '.join(known)}."
        raise fail(f"{message} Or write 'module:attribute'.", node.value["name"].at, "env.name")
    return env


def _search(node: Node | None) -> dict[str, Any] | None:
    if node is None or node.value is None:
        return None
    if not isinstance(node.value, dict):
        raise fail(f"expected a mapping, got {show(node.value)}", node.at, "search")
    finite(node, "search")
    search: dict[str, Any] = to_python(node)
    return search


def _keys_of(chosen: str, root: Node, wanted: edits.Edits) -> list[str]:
    """Every dotted key of the resolved spec, for a hint; those written when it does not resolve."""
    try:
        written = to_dict(_resolve(chosen, edits.apply(root, wanted)))
    except SpecError:
        written = to_python(root)
    return _dotted(written)


def _dotted(tree: Mapping[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for key, value in tree.items():
        place = f"{path}.{key}" if path else key
        found += [place, *(_dotted(value, place) if isinstance(value, Mapping) else ())]
    return found
