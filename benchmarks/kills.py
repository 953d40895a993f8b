"""Runs killed at random moments, resumed, and held against one that was not: every leaf, every column.

    python benchmarks/kills.py                          10 kills of each algorithm; an hour on two cores
    python benchmarks/kills.py ppo sac --kills 3

Log rows are longer than what lies between two checkpoints, so nearly every run goes on from within a row. A run may be
killed before its first checkpoint, too; it then starts over.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from slmjax.lab import leaves, manifest

ROOT = Path(__file__).resolve().parent.parent
ROW, PERIOD = 150_000, 20_000
CLOCKS = ["wall_t", "fps"]
CASES = {  # config, frames
    "ppo": ("ppo_cartpole", 400_000),
    "a2c": ("a2c_cartpole", 400_000),
    "dqn": ("dqn_cartpole", 200_000),
    "reinforce": ("reinforce_cartpole", 400_000),
    "recurrent_ppo": ("ppo_hidden_cartpole", 200_000),
    "pposil": ("pposil_cartpole", 200_000),
    "sac": ("sac_cartpole", 80_000),
}


def command(*words: object) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "slmjax.run", *map(str, words), "--quiet"]


def words(case: str, data: Path, frames: int | None, row: int, period: int) -> list[object]:
    """What starts a case."""
    config, usual = CASES[case]
    sets = {"env.max_frame": frames or usual, "meta.log_frequency": row, "meta.checkpoint_frequency": period}
    sets |= {"meta.max_session": 2, "meta.eval_episodes": 4}
    pairs = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    return [ROOT / "configs" / f"{config}.yaml", "--data", data, *pairs]


def newest(folder: Path) -> int:
    """Frame of the newest checkpoint of a run, 0 where there is none."""
    return max((int(path.name) for path in (folder / "model").glob("*") if path.name.isdigit()), default=0)


def differences(a: Path, b: Path) -> list[str]:
    """Leaves and columns in which two finished runs differ; their clocks may."""
    states = [leaves.read(folder / "model" / str(newest(folder)))[1] for folder in (a, b)]
    names = states[0].keys() | states[1].keys()
    odd = [n for n in names if any(n not in s for s in states) or states[0][n].tobytes() != states[1][n].tobytes()]
    for path in sorted((a / "info").glob("*_session_df.csv")):
        tables = [pd.read_csv(at / "info" / path.name, dtype=str).drop(columns=CLOCKS) for at in (a, b)]
        odd += [f"{path.name}: {c}" for c in tables[0] if not tables[0][c].equals(tables[1][c])]
    return sorted(odd)


def kill(case: str, root: Path, after: float, start: list[object], reference: Path) -> bool:
    """One run, killed `after` seconds from the appearance of its folder, and resumed: whether all is equal."""
    process = subprocess.Popen(command(*start), stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(root.glob("*/log")):
        time.sleep(0.02)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    (folder,) = root.iterdir()
    frame = newest(folder)
    subprocess.run(command("--resume", folder), check=True)
    odd = differences(reference, folder)
    print(f"| {case} | {after:.1f} s | {frame:,} | {'equal' if not odd else ', '.join(odd[:4])} |", flush=True)
    return not odd


def main() -> int:
    """Exit code 1 where a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: {', '.join(CASES)}")
    parser.add_argument("--kills", type=int, default=10, help="of each case (default: 10)")
    parser.add_argument("--frames", type=int, help="of a run (default: by case)")
    parser.add_argument("--row", type=int, default=ROW, help=f"frames of a log row (default: {ROW})")
    parser.add_argument("--period", type=int, default=PERIOD, help=f"frames between checkpoints (default: {PERIOD})")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}; expected {', '.join(CASES)}")
    print("| case | killed after | resumed from frame | all leaves and columns |\n|---|---|---|---|", flush=True)
    draw, passed, total = random.Random(options.seed), 0, 0
    for case in options.cases or CASES:
        with tempfile.TemporaryDirectory() as place:
            start = lambda name: words(case, Path(place) / name, options.frames, options.row, options.period)  # noqa: B023, E731
            subprocess.run(command(*start("whole")), check=True)
            (reference,) = (Path(place) / "whole").iterdir()
            spent = manifest.read(reference)  # the killed runs find the compiled program: they learn at once
            seconds = spent["total_seconds"] - spent["compile_seconds"]
            for i in range(options.kills):
                root = Path(place) / f"kill{i}"
                root.mkdir()
                passed += kill(case, root, draw.uniform(0.1, 0.9) * seconds, start(root.name), reference)
                total += 1
                shutil.rmtree(root)
    print(f"\n{passed} of {total} equal")
    return 0 if passed == total else 1


if __name__ == "__main__":
    sys.exit(main())
