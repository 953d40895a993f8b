"""Every script in `benchmarks/` runs as a person would start it, with settings that say nothing but that it works.

What they measure is looked at by hand; here is no clock.
"""

import json
import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from compiling import FLAGS
from runs import LIMIT, ROOT

from slmjax.spec.sections import Spec

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py"))
NUMBER = r"-?[\d,.]+"
PACE = rf"{NUMBER}k, {NUMBER}k"
SPREAD = rf"{NUMBER} \({NUMBER} - {NUMBER}\)"
SHORT = ("--set", "env.max_frame=1024", "--set", "meta.max_session=2", "--set", "meta.eval_episodes=4")
KILLS = ["reinforce", "--frames", "3000", "--row", "500", "--period", "200", "--kills"]

# Script -> how it is started (`FOLDER` is one of its own), and what it must say.
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "against_commit.py": (
        ["HEAD", "random:1", "--pairs", "1", "--seconds", "0.1"],
        [rf"\| random \| 1 \| {PACE} \| {SPREAD} \| {PACE} \| {SPREAD} \| {NUMBER}, {NUMBER} at {NUMBER} \("],
    ),
    "against_rejax.py": (
        ["--child", json.dumps(["ours", "dqn", 10, 10_000, 2000])],
        [r'^\{"pace": [\d.]+, "returns": \[([\d.]+(, )?){8}\]\}$'],
    ),
    "equal.py": (
        ["HEAD", "crossentropy_cartpole", "--updates", "1", "--sessions", "1"],
        [r"^\| crossentropy_cartpole \| (\d+) of \1 equal"],
    ),
    "kills.py": (
        [*KILLS, "0"],  # the run that killed ones are held against; one is killed in a slow test below
        ["^0 of 0 equal$"],
    ),
    "learning.py": (
        ["reinforce_cartpole", *SHORT, "--results", "FOLDER/results.json"],
        [rf"^reinforce_cartpole: .* \| 1,024 \| 2 \| {NUMBER} \| none \| {NUMBER} \| 483.3 \| 480: the run is too"],
    ),
    "measurements.py": (
        [json.dumps(["throughput", "random", 1, 2000, 2])],
        [r'^\{"compile": [\d.]+, "pace": \[[\d.]+, [\d.]+\], "cores": 1\}$'],
    ),
    "random_baselines.py": (["CartPole-v1", "--table", "FOLDER/table.json"], [r"^CartPole-v1 \{'mean': [\d.]+, "]),
    "specs.py": ([], []),  # settings; they are resolved below
    "speed.py": (
        ["--quick"],
        [
            rf"^\| Random, 4 envs \| 1 \| 1 \| {NUMBER} \| {NUMBER} \| {SPREAD} \|$",
            rf"^\| random, 1 sessions \| {SPREAD} \| {SPREAD} \| {SPREAD} % \|$",
            rf"^\| 1 sessions \| {SPREAD} \| {SPREAD} \| {SPREAD} \|$",
            rf"^\| random \| {SPREAD} \| {SPREAD} \| {NUMBER} \|$",
            rf"^\| configs/reinforce_cartpole.yaml \| {SPREAD} \| {SPREAD} \|$",
        ],
    ),
    "widths.py": (
        ["a2c", "--sizes", "3", "5", "--frames", "300"],
        [r"^\| a2c \| 3 x 1, 3 x 2, 5 x 1, 5 x 2 \| \d+ \| none \| \d+ \|$"],
    ),
}


@pytest.fixture(scope="module")
def light(tmp_path_factory) -> Path:
    """A folder with a `seaborn` in which there is nothing.

    gymnax imports it to draw Pong, which nobody does here, and it takes a second of each process.
    """
    folder = tmp_path_factory.mktemp("light")
    (folder / "seaborn.py").write_text("")
    return folder


def start(script: str, words: list[str], light: Path) -> subprocess.CompletedProcess:
    """A script, run to its end in a process of its own; XLA optimises nothing."""
    path = os.pathsep.join([str(light), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    command = [sys.executable, str(BENCHMARKS / script), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)


def no_commit() -> str:
    """Why there is no commit to compare with; empty where there is one."""
    try:
        look = ["git", "-C", str(ROOT), "cat-file", "-e", "HEAD:./slmjax/session.py"]
        done = subprocess.run(look, capture_output=True, text=True, timeout=LIMIT, check=False)
    except OSError as error:
        return f"there is no git: {error}"
    return f"git cannot read this checkout: {done.stderr.strip()}" if done.returncode else ""


@pytest.fixture
def scripts(monkeypatch):
    """The scripts can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_and_says_what_it_measured(script, light, tmp_path):
    assert script in RUNS, f"say in RUNS how {script} is started with tiny settings"
    if script in ("against_commit.py", "equal.py") and (why := no_commit()):
        pytest.skip(why)
    words, expected = RUNS[script]
    done = start(script, [word.replace("FOLDER", str(tmp_path)) for word in words], light)
    assert done.returncode == 0, done.stderr[-3000:]
    for line in expected:
        assert re.search(line, done.stdout, re.MULTILINE), f"{line}\n{done.stdout[-3000:]}"
    if script == "random_baselines.py":
        assert_within_noise(json.loads((tmp_path / "table.json").read_text()))


@pytest.mark.slow
def test_a_killed_run_is_held_against_one_that_was_not(light):
    done = start("kills.py", [*KILLS, "1"], light)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^\| reinforce \| [\d.]+ s \| [\d,]+ \| equal \|$", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.endswith("1 of 1 equal\n")


def assert_within_noise(measured: dict) -> None:
    """The baselines that the package has are those that the script finds, five standard errors allowed."""
    known = json.loads((ROOT / "slmjax" / "analysis" / "random_baselines.json").read_text())
    assert measured
    for env, found in measured.items():
        error = math.hypot(*(x["std"] / math.sqrt(x["episodes"]) for x in (found, known[env])))
        assert found["episodes"] == known[env]["episodes"]
        assert abs(found["mean"] - known[env]["mean"]) < 5 * error, env
        assert found["std"] == pytest.approx(known[env]["std"], rel=0.25), env


def test_no_script_is_listed_that_is_not_there():
    assert sorted(RUNS) == SCRIPTS


@pytest.mark.skipif(find_spec("rejax") is None, reason="rejax is not installed beside these tests")
def test_both_sides_of_the_comparison_with_rejax_run(light):
    done = start("against_rejax.py", [sys.executable, "--quick"], light)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(rf"^\| DQN, 10 envs, 10k slots \| {SPREAD} \| {SPREAD} \| {SPREAD}x \|", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("words", [[], ["no-such-python"]])
def test_without_rejax_the_comparison_says_what_it_needs(words, light):
    done = start("against_rejax.py", words, light)
    assert done.returncode == 2
    assert "expected an interpreter that has rejax" in done.stderr


def test_figures_of_changed_entries_do_not_get_into_the_docs(light):
    done = start("learning.py", ["reinforce_cartpole", *SHORT], light)
    assert done.returncode == 2
    assert "--set needs --results" in done.stderr


@pytest.mark.parametrize(("words", "said"), [(["no-such-commit"], "no-such-commit"), (["HEAD", "ppo5"], "ppo5")])
def test_the_comparison_of_commits_names_what_it_does_not_know(words, said, light):
    done = start("against_commit.py", words, light)
    assert done.returncode == 2
    assert said in done.stderr


def test_every_case_of_the_comparison_of_commits_is_a_spec(scripts):
    import against_commit

    import slmjax

    for name, spec in against_commit.cases().items():
        resolved = slmjax.load_spec(spec)
        assert isinstance(resolved, Spec), name
        assert resolved.env.max_frame >= 10**8, f"{name}: a timed run must not come to its end"


def test_numbers_of_a_config_are_numbers_whatever_yaml_says(scripts):
    import specs

    assert specs._numbers({"lr": "1e-3", "a": ["5e-1", "Adam", None, True, 3]}) == {
        "lr": 0.001,
        "a": [0.5, "Adam", None, True, 3],
    }


def side(frames: list[int], *returns: list[float | None]) -> dict:
    """What a run of `against_commit.measure` says, as far as returns go: a list a session."""
    return {"frames": frames, "returns": list(returns)}


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (side([500, 1000], [1.0, 2.0]), side([500, 1000, 1500], [1.0, 2.0, 9.0]), "2.0, 2.0 at 1,000 (equal)"),
        (
            side([500, 1000], [1.0, 2.0], [3.0, 4.0]),
            side([500, 1000], [1.0, 2.0], [3.0, 8.0]),
            "3.0, 5.0 at 1,000 (not equal from 1,000 on)",
        ),
        (side([500, 1000], [1.0, 2.0]), side([500, 1000], [7.0, 2.0]), "2.0, 2.0 at 1,000 (not equal from 500 on)"),
        (side([500], [None]), side([500], [None]), "nan, nan at 500 (equal)"),
        (side([500], [1.0]), side([700], [1.0]), "no common row"),
    ],
)
def test_returns_of_two_commits_are_told_apart(ours, theirs, said, scripts):
    import against_commit

    assert against_commit.last_returns([ours, theirs]) == said
