"""The README and the docs tell the truth: their code runs as printed, their links lead somewhere, their tables agree.

Code blocks of a page are one notebook, run from top to bottom in one process. A block whose first line is a comment
with a file name (`# reinforce.py`) is that file. `sh` lines that start `python -m slmjax.run` are run through its
`main`. Budgets (frames and sessions) are cut, nothing else is changed. Blocks of another language (`text`) are not run.

Nearly all of the time goes into compiling. So the pages run side by side, XLA optimises little, and runs that differ in
data alone have one number of sessions, hence one program in the cache.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import LIMIT

from slmjax import registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/architecture.md", "docs/configs.md")
WRITTEN = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = (
    "pip install -e . && python -m slmjax.run configs/dqn_cartpole.yaml",
    "pip install -e '.[test]' && pytest",
)
FRAMES, SESSIONS = 3000, 4  # instead of each `max_frame`, and of the sessions that a command or `train` asks for


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)


def shorten(code: str) -> str:
    code = re.sub(r"max_frame: \d+", f"max_frame: {FRAMES}", code)
    return re.sub(r"\bsessions=\d+", f"sessions={SESSIONS}", code)


def file_of(code: str) -> str | None:
    """The file name that the first line of a block gives it."""
    found = re.match(r"# (\w+\.(?:py|yaml))\n", code)
    return found[1] if found else None


def command_lines(code: str) -> list[str]:
    """Complete `python -m slmjax.run` lines, without those that show placeholders in capitals."""
    lines = [line for line in code.splitlines() if line.startswith("python -m slmjax.run ")]
    return [line for line in lines if not re.search(r" \[?[A-Z_]{3,}\b", line)]


def run_line(line: str) -> str:
    """A line of the notebook that does what a shell line does, with a small budget."""
    words = [*shlex.split(line)[3:], "--quiet"]
    words = [re.sub(r"^\d+$", str(SESSIONS), word) for word in words]  # --sessions 64
    return f"assert __import__('slmjax.run').run.main({words!r}) == 0, {line!r}\n"


def notebook(page: str, folder: Path) -> str:
    """Writes a page's files into a folder: the code of its other blocks."""
    cells = []
    for language, code in blocks(page):
        name = file_of(code)
        if name:
            (folder / name).write_text(shorten(code), encoding="utf-8")
        elif language == "python":
            cells.append(shorten(code))
        elif language == "sh":
            cells += [run_line(line) for line in command_lines(code)]
    return "\n".join(cells)


def begin(page: str, folder: Path) -> subprocess.Popen:
    """Runs the code of a page in a folder of its own; what it says goes to `said` there."""
    (folder / "configs").mkdir()
    for config in (ROOT / "configs").glob("*.yaml"):
        (folder / "configs" / config.name).write_text(shorten(config.read_text(encoding="utf-8")), encoding="utf-8")
    script = folder / "page.py"
    script.write_text(notebook(page, folder), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with (folder / "said").open("w") as said:
        return subprocess.Popen([sys.executable, str(script)], cwd=folder, env=env, stdout=said, stderr=said)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Page -> its folder and its process, all of them at work."""
    folders = {page: tmp_path_factory.mktemp("page") for page in PAGES}
    made = {page: (folder, begin(page, folder)) for page, folder in folders.items()}
    yield made
    for _, process in made.values():
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_as_printed(page, running):
    folder, process = running[page]
    code = process.wait(280)
    assert code == 0, (folder / "said").read_text(encoding="utf-8", errors="replace")[-6000:]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_computes_ends_by_looking_at_it(page):
    """A process of JAX that ends while its CPU still computes may crash (seen: one in eight)."""
    last = [code for language, code in blocks(page) if language == "python" and file_of(code) is None][-1].strip()
    assert "segment(" not in last or last.splitlines()[-1].startswith("print(")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_shows_is_used_on_it(page):
    code = [code for _, code in blocks(page)]
    for name in filter(None, map(file_of, code)):
        word = name.removesuffix(".py")
        assert any(re.search(rf"\b{re.escape(word)}\b", other) for other in code if file_of(other) != name), name


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    assert {language for language, _ in blocks(page)} <= {"python", "yaml", "sh", "text"}
    assert all(file_of(code) for language, code in blocks(page) if language == "yaml")


def test_ci_runs_the_readmes_commands_word_by_word():
    ci = text(".ci/run")
    shown = [code.strip() for language, code in blocks("README.md") if language == "sh"]
    for command in COMMANDS:
        assert command in shown
        assert f"'{command}'" in ci or f'"{command}"' in ci
    for command in ("ruff check", "ruff format --check", "mypy"):
        assert f"'{command}'" in ci
        assert f"\n{command}\n" in text("CONTRIBUTING.md")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_configs_page_is_what_the_code_says():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from make_configs import page, with_keys
    finally:
        sys.path.remove(str(ROOT / "docs"))
    assert text("docs/configs.md") == page(), "run: python docs/make_configs.py"
    told = ""
    for path in (ROOT / "docs" / "algorithms").glob("*.md"):
        told += path.read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8") == with_keys(path.read_text(encoding="utf-8")), path.name
    pages = " ".join(re.findall(r"<!-- keys: (.*?) -->", told)).split()
    assert sorted(pages) == [name for name in registry.names("algorithm") if name != "Random"], "one page each"


def test_tables_of_results_are_those_of_the_file():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from learning import ENTRIES, filled
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    results = json.loads(text("docs/results.json"))
    assert set(results) <= set(ENTRIES)
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.read_text(encoding="utf-8")
        assert page == filled(page, results), f"{path.name}: run python benchmarks/learning.py --tables"
    configs = {entry.config for entry in ENTRIES.values()}
    assert configs == {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"dqn_minatar"}


def test_a_notebook_of_a_broken_page_would_fail(tmp_path):
    script = tmp_path / "page.py"
    script.write_text(run_line("python -m slmjax.run nothing.yaml"), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode != 0


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "docs/testing.md"])
def test_lines_are_short(page):
    long = [n for n, line in enumerate(text(page).splitlines(), 1) if len(line) > 120 and line[:1] not in "|!"]
    assert not long
