"""Graphs of many sessions, drawn by several processes at once: each takes a third of a second."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from slmjax.analysis.graphs import draw_session
from slmjax.analysis.style import save
from slmjax.analysis.tables import read_session_df

SHARE = 8  # graphs that are worth a process of their own, whose imports take about a second


class Job(NamedTuple):
    """The graph of one session: from which table (CSV) to which file, its title, a random policy's return, its failure.

    That is the frame by which it failed; None: it did not.
    """

    table: str
    graph: str
    title: str
    random_baseline: float | None
    failed: float | None = None


def draw_all(jobs: Sequence[Job], processes: int) -> None:
    """Draws all graphs, with as many processes at once as are worth it.

    They are new commands: a fork of a process with JAX's threads may hang, and `multiprocessing`
    would run a script again that does not guard its main part.

    Raises:
        OSError: a process failed; holds what it said last.
    """
    processes = min(processes, len(jobs) // SHARE)
    if processes < 2:
        _draw(jobs)
        return
    words, said = [sys.executable, "-m", __name__], subprocess.PIPE
    # What is found here is found there.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    running = [subprocess.Popen(words, stdin=subprocess.PIPE, stderr=said, env=env) for _ in range(processes)]
    try:
        for i, process in enumerate(running):
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):  # it has ended already: why is asked below
                process.stdin.write(json.dumps(jobs[i::processes]).encode())
                process.stdin.close()
        for process in running:
            assert process.stderr
            lines = process.stderr.read().decode(errors="replace").strip().splitlines()
            if process.wait():
                raise OSError(f"session graphs could not be drawn: {lines[-1] if lines else process.returncode}")
    finally:
        for process in running:
            process.kill()
            process.wait()


def _draw(jobs: Sequence[Job]) -> None:
    for job in jobs:
        save(draw_session(read_session_df(job.table), job.title, job.random_baseline, job.failed), job.graph)


if __name__ == "__main__":
    _draw([Job(*job) for job in json.load(sys.stdin)])
