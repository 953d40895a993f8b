"""How fast this checkout is against any commit of it, in alternating processes:

    python benchmarks/against_commit.py REF [CASE ...]

    python benchmarks/against_commit.py HEAD~1                     what a change did to PPO, DQN and SAC
    python benchmarks/against_commit.py 8cd33b7 all                every case
    python benchmarks/against_commit.py main ppo4:256 dqn10:1      256 sessions, one session

A case is `NAME` or `NAME:SESSIONS` (8 if not given). Each run is a process of its own and learns for some seconds
through the lab's loop, rows and visits included; compilation and evaluation are not counted. Frames per second of CPU
time bear with what else the machine does; those per second of wall time say what a person waits for. A ratio is the
median over pairs of runs, this checkout divided by REF, with the least and the largest. Returns (`total_reward`) are
those of the last log row that both have, means over sessions, and whether the sessions agree in every row before it.
"""

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent
SESSIONS = 8
USUAL = ("ppo4", "ppo64", "dqn10", "sac")


def cases() -> dict[str, Any]:
    """Specs by name: those of `specs.py`, and configs with a network or an environment of their own."""
    import specs

    # Schedules of all these settings are given in frames, so a budget that is never reached changes nothing.
    many = specs.MANY
    return {
        "ppo4": specs.ppo(4, many),
        "ppo64": specs.ppo(64, many),
        "ppo256": specs.ppo(256, many),
        "dqn10": specs.dqn(10, many),
        "dqn10_1M": specs.dqn(10, many, 1_000_000),
        "a2c": specs.config("a2c_cartpole"),
        "sarsa": specs.config("sarsa_cartpole"),
        "reinforce": specs.config("reinforce_cartpole"),
        "sil": specs.config("sil_cartpole"),
        "pqn": specs.config("pqn_cartpole"),
        "ddqn_per": specs.config("ddqn_per_cartpole"),
        "c51": specs.config("c51_cartpole"),
        "sac": specs.config("sac_pendulum"),
        "td3": specs.config("td3_pendulum"),
        "crossq": specs.config("crossq_pendulum"),
        "ppo_recurrent": specs.config("ppo_memorychain"),
        "drqn": specs.config("dqn_memorychain"),
        "conv": specs.config("ppo_minatar", env__name="Breakout-MinAtar", agent__net=specs.conv()),
        "random": specs.random(4, many),  # the environments and the loop alone
        "dqn_minatar": specs.config("dqn_minatar", env__name="Breakout-MinAtar", agent__memory__max_size=20_000),
    }


def measure(name: str, sessions: int, seconds: float) -> dict[str, Any]:
    """Frames per second of one run of the `slmjax` that Python finds, over all sessions, and its returns by row."""
    import specs

    from slmjax.lab import devices

    getattr(devices, "use_every_core", int)()  # as commits before the threads of `population.py` wish
    devices.cache_programs()
    from slmjax.lab import loop

    spec = cases()[name]
    frequency = spec.get("meta", {}).get("log_frequency", 500)
    trial = specs.make_trial({**spec, "meta": {"max_session": sessions, "log_frequency": frequency}})
    run, compile_seconds = loop.compile_segment(trial, loop.start(trial))
    warm, mark = seconds / 4, {}

    def clock() -> tuple[float, float]:
        return time.perf_counter(), sum(os.times()[:2])

    began = clock()

    def visit(run: Any) -> bool:
        now = clock()
        if "start" not in mark and now[0] - began[0] > warm:  # the first segments are short, and caches are cold
            mark["start"] = (run.frame, *now)
        mark["end"] = (run.frame, *now)
        return now[0] - began[0] < warm + seconds or mark["end"] == mark["start"]

    run = loop.learn(trial, run, visit)
    frames, wall, cpu = (b - a for a, b in zip(mark["start"], mark["end"], strict=True))
    rewards = run.history.columns["total_reward"]
    return {
        "cpu": sessions * frames / cpu,
        "wall": sessions * frames / wall,
        "compile": compile_seconds,
        "frames": run.history.columns["frame"][0].tolist(),
        "returns": [[None if x != x else float(x) for x in row] for row in rewards],
    }


def child(tree: Path, *arguments: Any) -> dict[str, Any]:
    """`measure` with the package of a tree, in a process of its own."""
    path = os.pathsep.join([str(tree), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(HERE), "--child", json.dumps(arguments)]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=1800)
    if done.returncode:
        if tree == ROOT:
            sys.exit(done.stderr[-2000:])
        # An older commit may not know the algorithm or the key: no reason not to time the other cases.
        raise LookupError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def last_returns(pair: list[dict[str, Any]]) -> str:
    """Mean return of each side at the last frame of which both have a row, and from which row on sessions differ."""
    common = sorted(set(pair[0]["frames"]) & set(pair[1]["frames"]))
    if not common:
        return "no common row"
    at = [[side["frames"].index(frame) for frame in common] for side in pair]
    rows = [[[lane[i] for lane in side["returns"]] for i in where] for side, where in zip(pair, at, strict=True)]
    means = [statistics.mean(known) if (known := [x for x in side[-1] if x is not None]) else math.nan for side in rows]
    differ = next((frame for frame, a, b in zip(common, *rows, strict=True) if a != b), None)
    verdict = "equal" if differ is None else f"not equal from {differ:,} on"
    return f"{means[0]:.1f}, {means[1]:.1f} at {common[-1]:,} ({verdict})"


def spread(values: list[float]) -> str:
    """`median (least - largest)`."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


def compare(tree: Path, case: str, pairs: int, seconds: float) -> str:
    """A line of the table."""
    name, _, sessions = case.partition(":")
    arguments = (name, int(sessions or SESSIONS), seconds)
    runs = []
    for i in range(pairs):
        order = (0, 1) if i % 2 == 0 else (1, 0)
        found = {k: child((ROOT, tree)[k], *arguments) for k in order}
        runs.append([found[0], found[1]])
    ratios = {key: [ours[key] / theirs[key] for ours, theirs in runs] for key in ("cpu", "wall")}
    pace = [statistics.median(pair[k]["cpu"] for pair in runs) / 1e3 for k in (0, 1)]
    walls = [statistics.median(pair[k]["wall"] for pair in runs) / 1e3 for k in (0, 1)]
    return (
        f"| {name} | {arguments[1]} | {pace[0]:,.0f}k, {pace[1]:,.0f}k | {spread(ratios['cpu'])} "
        f"| {walls[0]:,.0f}k, {walls[1]:,.0f}k | {spread(ratios['wall'])} | {last_returns(runs[0])} |"
    )


@contextlib.contextmanager
def checked_out(ref: str, arguments: argparse.ArgumentParser) -> Iterator[tuple[Path, str]]:
    """The tree of a commit in a folder for a while, and its short name; an error of `arguments` where there is none."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout

    try:
        sha = git("rev-parse", "--short", f"{ref}^{{commit}}").decode().strip()
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", b"").decode().strip() or error
        arguments.error(f"cannot find the commit {ref!r} in {ROOT}: {why}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(git("archive", sha))) as archive:
            # Python 3.11.2 and 3.11.3, which Debian has, do not know filters.
            archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        yield Path(folder), sha


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("ref", nargs="?", metavar="REF", help="the commit to compare with")
    arguments.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"default: {' '.join(USUAL)}; all: {', '.join(cases())}"
    )
    arguments.add_argument("--pairs", type=int, default=5, help="alternations of each case (default: 5)")
    arguments.add_argument("--seconds", type=float, default=6.0, help="how long each run learns (default: 6)")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        print(json.dumps(measure(*json.loads(options.child))))
        return
    if not options.ref:
        arguments.error("expected the commit to compare with, for instance HEAD~1")
    chosen = list(cases()) if options.cases == ["all"] else options.cases or USUAL
    if unknown := [case for case in chosen if case.partition(":")[0] not in cases()]:
        arguments.error(f"unknown case {unknown[0]!r}; known: {', '.join(cases())}")
    with checked_out(options.ref, arguments) as (tree, sha):
        print(f"this checkout against {sha}: {options.pairs} pairs of {options.seconds:g} s\n")
        print("| case | sessions | frames / CPU s | ratio | frames / s | ratio | mean return, both |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for case in chosen:
            try:
                line = compare(tree, case, options.pairs, options.seconds)
            except LookupError as error:
                line = f"| {case} | does not run there: {error} |||||"
            print(line, flush=True)


if __name__ == "__main__":
    main()
