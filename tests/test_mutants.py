"""Every mutant of `tests/mutants.py` is caught by the tests that it names; and the table is one of today's code."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import HEADING, MUTANTS, NAMES, PAGE, Mutant, section

ROOT = Path(__file__).parents[1]
LIMIT = 600  # seconds for the tests of one mutant, on a busy machine
TESTS = sorted({test for mutant in MUTANTS for test in mutant.caught_by})


def case(mutant: Mutant) -> str:
    """`file: name`, with a number where one file has several of a name."""
    kin = [m for m in MUTANTS if (m.file, m.name) == (mutant.file, mutant.name)]
    return f"{mutant.file}: {mutant.name}" + (f" {kin.index(mutant) + 1}" if len(kin) > 1 else "")


CASES = pytest.mark.parametrize("mutant", MUTANTS, ids=case)


def source(mutant: Mutant) -> str:
    return (ROOT / "slmjax" / mutant.file).read_text(encoding="utf-8")


def copy_to(folder: Path) -> Path:
    """The package and its tests, without what Python has made of them."""
    for name in ("slmjax", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(folder: Path, tests: list[str], limit: float) -> tuple[int, str]:
    """Exit code and output of pytest on a copy. A test that hangs is none that fails: the limit is for all of them."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ours |= {"PYTHONPATH": str(folder), "COLUMNS": "1000"}  # the summary says why a test failed, if the line is long
    options = "-o addopts= -n 0 -q --tb=short --timeout=0 -p no:cacheprovider".split()
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)]
    done = subprocess.run(command, cwd=folder, env=ours, capture_output=True, text=True, timeout=limit, check=False)
    return done.returncode, done.stdout + done.stderr


def catch(test: str, code: int, output: str) -> bool:
    """Whether the claim of a test failed: not its fixture nor an import, nor because the code no longer runs at all."""
    claim = rf"^FAILED tests/{re.escape(test)}(?:\[.*?\])? - (?:AssertionError|assert |Failed: DID NOT RAISE)"
    no_errors = " error" not in output.strip().splitlines()[-1]
    return code == 1 and no_errors and bool(re.search(claim, output, re.MULTILINE))


# ----------------------------------------------------------------------------------------------------------- the table


def test_every_named_mutant_is_made_somewhere():
    assert len(set(NAMES)) == len(NAMES) == 25
    assert {mutant.name for mutant in MUTANTS} == set(NAMES)
    order = [NAMES.index(mutant.name) for mutant in MUTANTS]
    assert order == sorted(order)
    assert len({case(mutant) for mutant in MUTANTS}) == len(MUTANTS)


@CASES
def test_the_code_still_says_what_a_mutant_changes(mutant):
    before = source(mutant)
    assert before.count(mutant.old) == 1
    after = ast.parse(before.replace(mutant.old, mutant.new))  # it is Python
    assert ast.dump(after) != ast.dump(ast.parse(before))
    assert mutant.caught_by


@pytest.mark.parametrize("test", TESTS)
def test_what_catches_a_mutant_is_a_test_of_the_default_run(test):
    file, *names = re.sub(r"\[.*", "", test).split("::")
    body = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body
    for name in names:
        found = [node for node in body if getattr(node, "name", None) == name]
        assert len(found) == 1, name
        assert not [mark for mark in found[0].decorator_list if "slow" in ast.unparse(mark)]
        body = found[0].body


def test_the_page_shows_the_table():
    page = PAGE.read_text(encoding="utf-8")
    assert page[page.index(HEADING) :] == section(), "python tests/mutants.py"


def test_only_a_claim_that_fails_counts_as_a_catch():
    said = lambda why: f"FAILED tests/test_a.py::test_b[x-1] - {why}\n1 failed, 3 passed in 2.00s"  # noqa: E731
    for test in ("test_a.py::test_b", "test_a.py::test_b[x-1]"):
        assert catch(test, 1, said("AssertionError: not equal"))
        assert catch(test, 1, said("assert 1 == 2"))
        assert catch(test, 1, said("Failed: DID NOT RAISE ValueError"))
        assert not catch(test, 1, said("NameError: name 'x' is not defined"))
        assert not catch(test, 1, said("jax.errors.TracerBoolConversionError: no"))
        assert not catch(test, 2, said("AssertionError: not equal"))
        assert not catch(test, 1, said("AssertionError: not equal").replace("3 passed", "1 error"))
        assert not catch(test, 1, "ERROR tests/test_a.py - ImportError\n1 error in 2.00s")
        assert not catch(test, 0, "4 passed in 2.00s")
    assert not catch("test_a.py::test_c", 1, said("assert 1 == 2"))
    assert not catch("test_a.py::test_b[x-2]", 1, said("assert 1 == 2"))


# ----------------------------------------------------------------------------------------------------------- the proof


@pytest.mark.mutants
@pytest.mark.timeout(4 * LIMIT + 60)
def test_without_a_mutant_all_of_these_tests_pass(tmp_path):
    code, output = run(copy_to(tmp_path), TESTS, 4 * LIMIT)
    assert code == 0, output


@pytest.mark.mutants
@pytest.mark.timeout(LIMIT + 60)
@CASES
def test_a_mutant_is_caught(mutant, tmp_path):
    path = copy_to(tmp_path) / "slmjax" / mutant.file
    path.write_text(source(mutant).replace(mutant.old, mutant.new), encoding="utf-8")
    code, output = run(tmp_path, list(mutant.caught_by), LIMIT)
    silent = [test for test in mutant.caught_by if not catch(test, code, output)]
    assert not silent, output[-6000:]
