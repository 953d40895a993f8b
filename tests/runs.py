"""Runs of the command line in processes of their own, always under a time limit."""

import glob
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from slmjax.lab import leaves

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 200  # seconds; only what hangs takes so long, on slow and busy machines too


def command(*words: object) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "slmjax.run", *map(str, words)]


def environment() -> dict[str, str]:
    """The environment of a run: this checkout, on a CPU."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "JAX_PLATFORMS": "cpu"}


def run(*words: object, limit: float = LIMIT, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """A run to its end."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, timeout=limit, env=environment(), cwd=cwd, check=False
    )


def interrupt(*words: object, after: float, by: int = signal.SIGKILL, when: Path | None = None, shows: str = "") -> int:
    """Starts a run and sends it a signal, upon which it must leave: its exit code.

    `after` seconds are counted from the moment when a path that matches `when` exists (and, if given, `shows` a text).
    """
    process = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())

    def appeared() -> bool:
        found = [Path(path) for path in glob.glob(str(when))]
        return bool(found) and (not shows or any(shows in path.read_text() for path in found))

    try:
        deadline = time.monotonic() + LIMIT
        while when is not None and not appeared() and process.poll() is None:
            assert time.monotonic() < deadline, f"{when} never appeared"
            time.sleep(0.02)
        try:
            return process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(by)
            return process.wait(LIMIT)
    finally:
        process.kill()
        process.wait()


def only(folder: Path, pattern: str) -> Path:
    """The one path in a folder that fits."""
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


def final_state(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint of a run, by name."""
    step = max(int(path.name) for path in (folder / "model").iterdir() if path.name.isdigit())
    about, state = leaves.read(folder / "model" / str(step))
    return state | {"step": np.asarray(about["frame"])}


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that are not bit-equal; empty when all are."""
    return [k for k in sorted(a.keys() | b.keys()) if k not in a or k not in b or a[k].tobytes() != b[k].tobytes()]
