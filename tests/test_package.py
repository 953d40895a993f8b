"""The package as a whole: arrows between rooms, light imports, public names, docstrings, sizes, packaging."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from runs import LIMIT

import slmjax

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "slmjax"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# Room -> the rooms that it may import. `docs/architecture.md` shows the same table.
ROOMS = {
    "spaces": set(),
    "types": {"spaces"},
    "registry": {"types"},
    "spec": {"types", "registry"},
    "schedules": {"spec"},
    "maths": {"types"},
    "envs": {"types", "registry", "spec", "maths"},
    "policies": {"types", "registry", "spec", "maths"},
    "nets": {"types", "registry", "spec", "schedules", "maths", "policies"},
    "memory": {"types", "spec", "schedules", "maths"},
    "learners": {"types", "registry", "spec", "schedules", "maths", "policies", "nets", "memory"},
    "algos": {"types", "registry", "spec", "schedules", "maths", "policies", "nets", "memory", "learners"},
    "keys": {"types"},
    "stats": {"types"},
    "play": {"types", "schedules"},
    "session": {"types", "schedules", "maths", "keys", "stats", "play"},
    "batches": {"types"},
    "population": {"types", "session", "batches"},
    "analysis": set(),
    "lab": {
        "types",
        "registry",
        "spec",
        "envs",
        "schedules",
        "maths",
        "keys",
        "play",
        "session",
        "batches",
        "population",
        "analysis",
    },
    "run": {"types", "registry", "spec", "lab"},
}
# Third-party package -> the only rooms that may import it; None: any room.
OUTSIDE = {
    "jax": None,
    "numpy": None,
    "optax": {"nets", "learners", "schedules"},
    "flax": {"nets"},
    "yaml": {"spec"},
    "gymnax": {"envs"},
    "PIL": {"envs"},
    "rich": {"lab"},
    "pandas": {"lab", "analysis"},
    "matplotlib": {"analysis"},
}
HEAVY = ("matplotlib", "pandas", "gymnax", "gymnasium", "envpool")
# Distribution -> its import name where they differ; None: not imported here, and why it is declared all the same.
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}
NOT_IMPORTED = {
    "six": "gymnax imports it and does not declare it",
    "gymnasium": "gymnax imports it; its host environments are planned",
}
FUNCTION_LINES, FILE_LINES = 60, 260  # without nested functions; without blank lines


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it; `from slmjax import x` as `slmjax.x`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"slmjax.{a.name}" for a in node.names} if node.module == "slmjax" else {node.module}
    return found


def arrows(tree: ast.AST, room: str) -> set[str]:
    """Rooms that a file of `room` imports, itself left out."""
    inner = [name.split(".")[1] for name in imports(tree) if name.startswith("slmjax.")]
    return {name for name in inner if name != room}


# ------------------------------------------------------------------------------------------------------------- arrows


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_between_rooms_go_one_way(path):
    room = room_of(path)
    if room == "__init__":  # public names, imported when used
        return
    assert arrows(TREES[path], room) <= ROOMS[room]


def test_the_table_of_rooms_is_complete_and_has_no_cycle():
    assert set(ROOMS) == {room_of(path) for path in FILES} - {"__init__"}
    done: set[str] = set()
    for room, allowed in ROOMS.items():  # written in an order in which each room comes after those that it imports
        assert allowed <= done, room
        done.add(room)


def test_an_arrow_back_would_be_seen():
    assert arrows(ast.parse("def f():\n    from slmjax import lab"), "types") == {"lab"}
    assert arrows(ast.parse("import slmjax.lab.train"), "session") == {"lab"}


def test_architecture_page_shows_the_same_rooms():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in ROOMS:
        assert re.search(rf"^\| `{room}(\.py|/)` \|", page, re.MULTILINE), room


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_party_packages_stay_in_their_rooms(path):
    outside = {name.split(".")[0] for name in imports(TREES[path])} - sys.stdlib_module_names - {"slmjax"}
    assert outside <= set(OUTSIDE)
    if room_of(path) == "analysis":
        assert "jax" not in outside
    for name in outside:
        assert OUTSIDE[name] is None or room_of(path) in OUTSIDE[name], name


# ------------------------------------------------------------------------------------------------------------ imports


def loaded_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    return set(done.stdout.split())


def test_importing_slmjax_is_light():
    assert not loaded_after("import slmjax") & set(HEAVY)


def test_loading_a_spec_and_help_are_light():
    config = ROOT / "configs" / "ppo_cartpole.yaml"
    assert not loaded_after(f"import slmjax; slmjax.load_spec({str(config)!r})") & set(HEAVY)
    assert not loaded_after("import slmjax.run; slmjax.run.parser().format_help()") & {*HEAVY, "jax"}


def test_a_heavy_import_would_be_seen():
    assert "pandas" in loaded_after("import pandas")


# -------------------------------------------------------------------------------------------------------- public names


@pytest.mark.parametrize("name", slmjax.__all__)
def test_public_names_resolve(name):
    assert getattr(slmjax, name) is not None
    assert name in dir(slmjax)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        slmjax.nothing


def test_type_checkers_see_the_same_public_names():
    body = next(node for node in TREES[PACKAGE / "__init__.py"].body if isinstance(node, ast.If))
    seen = {alias.name for node in ast.walk(body) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(slmjax.__all__) - {"__version__"}


def test_types_are_shipped_and_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (PACKAGE / "py.typed").exists()
    assert project["version"] == slmjax.__version__


# --------------------------------------------------------------------------------------------------------------- style


def public(tree: ast.Module) -> list[ast.AST]:
    """Public classes and functions of a file, and the public methods of its public classes."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    top = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    methods = [m for node in top if isinstance(node, ast.ClassDef) for m in node.body if isinstance(m, ast.FunctionDef)]
    return top + [method for method in methods if not method.name.startswith("_")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(path):
    empty = not path.read_text(encoding="utf-8").strip()
    assert empty or ast.get_docstring(TREES[path]), "the module"
    assert not [node.name for node in public(TREES[path]) if not ast.get_docstring(node)]


def own_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without those of the functions in it."""
    inner = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef) and n is not function]
    lines = set(range(function.lineno, function.end_lineno + 1))
    return len(lines.difference(*(range(n.lineno, n.end_lineno + 1) for n in inner)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_and_files_are_small(path):
    functions = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef)]
    assert not [f"{node.name}: {own_lines(node)}" for node in functions if own_lines(node) > FUNCTION_LINES]
    assert len([line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]) <= FILE_LINES


def test_every_registered_name_has_a_doc_for_every_key():
    from slmjax import registry
    from slmjax.spec import schema

    for kind in ("algorithm", "memory", "net"):
        for name in registry.names(kind):
            target = registry.resolve(kind, name)
            for key, about in schema.keys(getattr(target, "hyper", target)).items():
                assert about.doc, f"{name}.{key}"


# ----------------------------------------------------------------------------------------------------------- packaging


def tracked() -> list[Path]:
    """Files that git tracks; those of the folders that matter where there is no git."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True
        )
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        kept = ("slmjax", "tests", "docs", "configs", "benchmarks", ".ci")
        paths = [*ROOT.glob("*.*"), *(path for name in kept for path in (ROOT / name).rglob("*"))]
    return [path for path in paths if path.is_file() and path.suffix not in (".png", ".gif", ".pyc")]


def test_tracked_files_hold_no_paths_of_a_machine_and_no_package_index():
    home = re.compile(r"(?<![\w.])/(?:home|Users|root|work|opt)/\w")
    index = re.compile(r"--(?:extra-)?index-url|--find-links|(?:pypi|pythonhosted)\.\w+/")
    for path in tracked():
        if path == Path(__file__):
            continue
        content = path.read_text(encoding="utf-8")
        assert not home.search(content), f"{path.name}: {home.search(content)}"
        assert not index.search(content), f"{path.name}: {index.search(content)}"


def requirement_names(lines: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines}


def test_every_dependency_is_imported_or_justified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = requirement_names(project["dependencies"])
    used = {name.split(".")[0] for tree in TREES.values() for name in imports(tree)}
    assert {name for name in declared if IMPORTED_AS.get(name, name) not in used} == set(NOT_IMPORTED)
    back = {value: key for key, value in IMPORTED_AS.items()}
    assert {back.get(name, name) for name in used - sys.stdlib_module_names - {"slmjax"}} <= declared


def test_constraints_pin_every_dependency_to_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    lines = [line for line in lines if line]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; python_version < \"3\.12\")?", line) for line in lines)
    assert len(requirement_names(lines)) == len(lines)
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    assert requirement_names(wanted) <= requirement_names(lines)


def test_the_whole_package_imports():
    for path in FILES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert inspect.ismodule(importlib.import_module(name))
