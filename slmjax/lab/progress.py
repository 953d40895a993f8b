"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere, nothing when quiet."""

import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from slmjax.analysis.words import compact
from slmjax.lab.loop import Run

LINE_SECONDS = 5.0  # between two plain lines


def mean_return(run: Run) -> float:
    """Mean of the newest `total_reward` over the sessions that have not failed; NaN before an episode has ended."""
    if not run.history.rows:
        return float("nan")
    reward = run.history.columns["total_reward"][:, -1]
    sound = np.isfinite(reward) & (run.history.columns["failed"][:, -1] < 0)
    return float(reward[sound].mean()) if sound.any() else float("nan")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows a run. A context manager; `say` prints a line above the bar, `show` updates the bar."""

    def __init__(self, total: int, sessions: int, quiet: bool = False, log: Path | None = None) -> None:
        """`total` frames of each of `sessions` sessions; all output also goes to the file `log`, if given."""
        self.log = log
        self.total, self.sessions, self.quiet = total, sessions, quiet
        self.live = sys.stdout.isatty() and not quiet
        self._bar: Any = None
        self._last = -LINE_SECONDS

    def __enter__(self) -> "Progress":
        if self.live:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, refresh_per_second=4)
            self._task = self._bar.add_task("", total=self.total, text="compiling ...")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line."""
        self._note(text)
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            self._print(text)

    def show(self, run: Run) -> None:
        """Brings the bar up to date, or prints a line if the last one is old enough or the run has ended."""
        text = self.text(run)
        if self._bar is not None:
            self._bar.update(self._task, completed=run.frame, text=text)
        if time.monotonic() - self._last < LINE_SECONDS and run.frame < self.total:
            return
        self._last = time.monotonic()
        self._note(text)
        if self._bar is None and not self.quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError:  # nobody reads any more; that is no reason to stop learning
            self.quiet = True
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  for the rest of the process

    def _note(self, text: str) -> None:
        if self.log is None:
            return
        stamp = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{stamp}  {text}\n")

    def text(self, run: Run) -> str:
        """`frame 50k/200k  25%  690k frames/s  eta 0:12  return 123.4`, frames/s over all sessions."""
        pace, reward = run.frame / max(run.history.wall_t, 1e-9), mean_return(run)
        failed = len(run.history.failed())
        parts = [
            f"frame {compact(run.frame)}/{compact(self.total)}",
            f"{100 * run.frame / self.total:3.0f}%",
            f"{compact(pace * self.sessions)} frames/s",
            f"eta {_duration((self.total - run.frame) / pace)}",
            f"return {reward:.1f}" if np.isfinite(reward) else "no return yet",
        ]
        return "  ".join(parts + ([f"{failed} failed"] if failed else []))
