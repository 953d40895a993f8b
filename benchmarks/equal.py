"""Whether every shipped config learns the same as at a commit, to the last bit: for what should change nothing.

    python benchmarks/equal.py HEAD~1
    python benchmarks/equal.py 7e857ad ppo_cartpole sac_pendulum --updates 100

A config runs in a process for each side: its warm-up and some updates, in rows of five. All columns that both have are
compared. `--keep FOLDER` keeps what the commit gave, and takes it from there the next time.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import specs
from against_commit import HERE, ROOT, checked_out

SELF = Path(__file__).resolve()
CLOCK = ("wall_t", "fps")  # columns that no two runs share


def columns(config: str, updates: int, sessions: int, into: str) -> None:
    """Writes the columns `[S, rows]` of a short run of the `slmjax` that Python finds."""
    from slmjax.lab import devices

    devices.cache_programs()
    import slmjax
    from slmjax.lab import loop

    raw = json.loads(Path(f"{into}.json").read_text())
    program = slmjax.make_session(slmjax.load_spec(raw, name=config))
    frames = (program.warmup_iterations + updates) * program.iteration_frames
    meta = {"max_session": sessions, "seed": 7, "log_frequency": 5 * program.iteration_frames, "eval_episodes": 2}
    raw = {**raw, "env": {**raw["env"], "max_frame": frames}, "meta": meta}
    trial = specs.make_trial(raw, name=config)
    run = loop.learn(trial, loop.start(trial), lambda run: True)
    np.savez(f"{into}.npz", **{name: x for name, x in run.history.columns.items() if name not in CLOCK})


def side(tree: Path, config: str, updates: int, sessions: int, folder: Path) -> dict[str, np.ndarray] | str:
    """The columns that a tree gives, or what it says instead."""
    into = folder / config
    if not into.with_suffix(".npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        into.with_suffix(".json").write_text(json.dumps(spec_of(config)))
        path = os.pathsep.join([str(tree), str(HERE.parent)])
        words = [sys.executable, str(SELF), "--child", json.dumps([config, updates, sessions, str(into)])]
        done = subprocess.run(
            words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False, timeout=1800
        )
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
    with np.load(into.with_suffix(".npz")) as found:
        return dict(found)


def spec_of(config: str) -> dict[str, Any]:
    """The config, of whose environments the first is chosen where it has several."""
    spec = specs.config(config)
    return specs.config(config, env__name="Breakout-MinAtar") if "$" in spec["env"]["name"] else spec


def verdict(ours: dict[str, np.ndarray] | str, theirs: dict[str, np.ndarray] | str) -> tuple[bool, str]:
    """Whether all common columns are equal; and in words which are not, from which row on, and what is new or gone."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return False, str(ours if isinstance(ours, str) else theirs)
    common = [name for name in theirs if name in ours]
    differ = []
    for name in common:
        same = np.equal(ours[name], theirs[name]) | (np.isnan(ours[name]) & np.isnan(theirs[name]))
        if not same.all():
            row = np.flatnonzero(~same.all(0))[0]
            worst = np.nanmax(np.abs(ours[name] - theirs[name]) / np.maximum(np.abs(theirs[name]), 1e-8))
            differ.append(f"{name} (row {row}, {worst:.1g})")
    words = [f"{len(common) - len(differ)} of {len(common)} equal"]
    words += [f"differ: {', '.join(differ)}"] if differ else []
    words += [f"new: {', '.join(sorted(ours.keys() - theirs.keys()))}"] if ours.keys() - theirs.keys() else []
    words += [f"gone: {', '.join(sorted(theirs.keys() - ours.keys()))}"] if theirs.keys() - ours.keys() else []
    return not differ, "; ".join(words)


def main() -> None:
    """Prints the table; exit code 1 where something differs."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("ref", nargs="?", metavar="REF", help="the commit to compare with")
    arguments.add_argument("configs", nargs="*", metavar="CONFIG", help="names in configs/ (default: all)")
    arguments.add_argument("--updates", type=int, default=20, help="after the warm-up (default: 20)")
    arguments.add_argument("--sessions", type=int, default=2, help="of each config (default: 2)")
    arguments.add_argument("--keep", type=Path, metavar="FOLDER", help="keeps what the commit gives")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        columns(*json.loads(options.child))
        return
    if not options.ref:
        arguments.error("expected the commit to compare with, for instance HEAD~1")
    known = sorted(path.stem for path in specs.CONFIGS.glob("*.yaml"))
    chosen = options.configs or known
    if unknown := [name for name in chosen if name not in known]:
        arguments.error(f"unknown config {unknown[0]!r}; known: {', '.join(known)}")
    failed = 0
    with checked_out(options.ref, arguments) as (tree, sha):
        kept = options.keep / f"{sha}-{options.updates}-{options.sessions}" if options.keep else tree / ".columns"
        print(f"this checkout against {sha}: {options.updates} updates\n\n| config | columns |\n|---|---|", flush=True)
        run = lambda root, name, folder: side(root, name, options.updates, options.sessions, folder)  # noqa: E731
        with ThreadPoolExecutor(2) as pool:
            for name in chosen:
                pair = pool.submit(run, ROOT, name, tree / ".ours"), pool.submit(run, tree, name, kept)
                same, words = verdict(*(side.result() for side in pair))
                failed += not same
                print(f"| {name} | {words} |", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
