"""Training without files: a spec in, returns, tables and policies out."""

import dataclasses
import functools
import os
import signal
import warnings
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from slmjax.lab import devices
from slmjax.lab.arrays import check, like, named
from slmjax.lab.history import History
from slmjax.lab.kit import Kit
from slmjax.lab.loop import Run, compile_segment, learn, start
from slmjax.lab.policy import Policy, fetch, keep
from slmjax.lab.progress import Progress, mean_return
from slmjax.lab.report import session_tables
from slmjax.lab.stop import StopRequest
from slmjax.lab.trial import Trial, budget, check_spec, make_trial
from slmjax.session import WINDOW, Session
from slmjax.spec.errors import brief, fail
from slmjax.spec.sections import Spec

if TYPE_CHECKING:
    import pandas as pd

_ROWS = "rows."  # before the name of a column, among the names of leaves, which all begin with a dot


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a trial came to. Copies, `pickle` and `save` keep everything.

    Attributes:
        kit: the spec, and what the policies share.
        arrays: every leaf of the final sessions by name, `[S, ...]`, on the host.
        history: the log rows, those of failed sessions included.
        frame: frames of each session; fewer than the budget where training was interrupted.
    """

    kit: Kit
    arrays: dict[str, np.ndarray]
    history: History
    frame: int

    def __repr__(self) -> str:
        done = Run(self.frame, (), self.history)
        parts = [
            f"{self.spec.name}: {self.spec.agent.algorithm.name} on {self.spec.env.name}",
            f"sessions={self.history.size}",
            f"frame={self.frame}" + f" of {self.spec.env.max_frame}" * (self.frame < self.spec.env.max_frame),
            f"mean_return={mean_return(done):.6g}",
            f"failed={len(self.failed)}",
        ]
        return f"Result({', '.join(parts)})"

    def __getstate__(self) -> dict[str, Any]:
        rows = History(self.history.size, self.history.wall_t, self.history.columns)  # without the room for more
        return {"kit": self.kit, "arrays": self.arrays, "history": rows, "frame": self.frame}

    @property
    def spec(self) -> Spec:
        """What was run."""
        return self.kit.spec

    @functools.cached_property
    def sessions(self) -> Session:
        """The final sessions, `[S, ...]`: what `make_session(spec).segment` goes on with under `vmap`."""
        with jax.ensure_compile_time_eval():
            return like(self.kit.sessions(self.history.size), self.arrays)

    @property
    def returns(self) -> np.ndarray:
        """`total_reward` of each session at each log row, `[S, rows]`: average with `np.nanmean`.

        NaN before the first episode of a session has ended, and from the row on in which it failed.
        """
        return self._sound("total_reward")

    @property
    def mean_return(self) -> np.ndarray:
        """Mean return of the episodes that ended in each log row, `[S, rows]`; NaN where none did, or it had failed."""
        return self._sound("mean_return")

    @property
    def final_return(self) -> np.ndarray:
        """Mean return of the episodes of each session that ended in the last tenth of the budget, `[S]`.

        It does not depend on how often is logged. NaN for a session that failed or ended none there, and for all of
        them where training was interrupted before.
        """
        return self._newest("final_return")

    @property
    def frames(self) -> np.ndarray:
        """The frame of each log row, `[rows]`."""
        return self.history.columns["frame"][0] if self.history.rows else np.zeros(0, int)

    @property
    def eval_reward(self) -> np.ndarray:
        """Mean return of the final greedy evaluation of each session, `[S]`: average with `np.nanmean`.

        NaN for a session that failed, and for all of them where training was interrupted before that evaluation.
        """
        return self._newest("eval_reward")

    def _sound(self, column: str) -> np.ndarray:
        """A column, `[S, rows]`, with NaN at and after the row in which a session failed."""
        if not self.history.rows:  # interrupted before the first was complete
            return np.zeros((self.history.size, 0))
        return np.where(self.history.columns["failed"] < 0, self.history.columns[column], np.nan)

    def _newest(self, column: str) -> np.ndarray:
        """The last row of a column, `[S]`."""
        return self._sound(column)[:, -1] if self.history.rows else np.full(self.history.size, np.nan)

    @property
    def failed(self) -> dict[int, int]:
        """Sessions that became NaN or infinite -> the frame by which they had."""
        return self.history.failed()

    @property
    def df(self) -> "pd.DataFrame":
        """One table of all sessions: the columns of `session_df` and `session` before them."""
        import pandas as pd

        if not self.history.rows:
            return pd.DataFrame(columns=["session", "frame", "total_reward"])
        tables = session_tables(self.spec, self.history)
        return pd.concat([t.assign(session=i) for i, t in enumerate(tables)], ignore_index=True).pipe(
            lambda df: df[["session", *(c for c in df.columns if c != "session")]]
        )

    def policy(self, session: int, best: bool = False) -> Policy:
        """What a session learned; `best` takes the policy of its best row instead of the last.

        That of a failed session is that of its best row. The best row is the last of those with the highest
        `total_reward` over a full window of episodes; while there is none, the last row before a failure.
        """
        size = self.history.size
        if not -size <= session < size:
            raise IndexError(f"session {session} of a result that holds {size}")
        best = best or session % size in self.failed
        part = ".best.policy" if best else ".agent.policy"
        names = {".key": "['key']"} | {n: f"['state']{n.removeprefix(part)}" for n in self.arrays if n.startswith(part)}
        learned = {name: np.array(self.arrays[full][session % size]) for full, name in names.items()}
        label = f"{self.spec.name}: {self.spec.agent.algorithm.name} on {self.spec.env.name}, session {session % size}"
        frame = self._best_frame(session % size) if best else self.frame
        return Policy(f"{label}{', its best row' * best}, frame {frame}", self.kit, learned, frame)

    def _best_frame(self, session: int) -> int:
        """The frame at the end of the best row, 0 before there is one: as `session.Best` says."""
        rows = {name: values[session] for name, values in self.history.columns.items()}
        sound = np.flatnonzero(rows["failed"] < 0) if rows else np.zeros(0, int)
        if not len(sound):
            return 0
        score = np.where(rows["epi"] >= WINDOW, rows["total_reward"], -np.inf)[sound]
        return int(rows["frame"][sound[np.flatnonzero(score == score.max())[-1]]])

    @property
    def policies(self) -> list[Policy]:
        """One policy a session."""
        return [self.policy(i) for i in range(self.history.size)]

    def best(self) -> Policy:
        """The policy of the session that is best by its final greedy evaluation, failed ones left out.

        Where training was interrupted before that evaluation, by its last `total_reward`.

        Raises:
            ValueError: every session failed, or none has finished an episode.
        """
        if len(self.failed) == self.history.size:
            raise ValueError(f"no session is the best: all failed, by frame {max(self.failed.values())} (see `failed`)")
        score = self.eval_reward if np.isfinite(self.eval_reward).any() else self._newest("total_reward")
        if not np.isfinite(score).any():
            raise ValueError("no session is the best: none that is sound has finished an episode")
        return self.policy(int(np.argmax(np.where(np.isfinite(score), score, -np.inf))))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a folder, for `slmjax.load_result`; a result that is there is replaced.

        Raises:
            UserError: it cannot be written there.
        """
        about = {"kind": "result", "frame": self.frame, "size": self.history.size, "wall_t": self.history.wall_t}
        rows = {_ROWS + name: values for name, values in self.history.columns.items()}
        keep(path, self.kit, about, self.arrays | rows)


def load_result(path: str | os.PathLike[str]) -> Result:
    """A result that `Result.save` wrote.

    The modules that its spec names (`module:attribute`) are imported, as `load_spec` does; nothing else runs.

    Raises:
        UserError: there is none, it is damaged, or its spec no longer makes such sessions.
    """
    kit, about, found = fetch(path, "result", "frame", "size", "wall_t")
    rows = {name.removeprefix(_ROWS): found.pop(name) for name in list(found) if name.startswith(_ROWS)}
    check(kit.sessions(about["size"]), found, f"the result in {path}")
    return Result(kit, found, History(about["size"], about["wall_t"], rows), about["frame"])


def result_of(trial: Trial, run: Run) -> Result:
    """What a run has come to; of what its sessions hold, a copy on the host."""
    names = [name for name, _ in named(run.sessions[0])]
    leaves = [np.concatenate([*parts]) for parts in trial.population.parts(run.sessions)]
    return Result(Kit(trial.spec), dict(zip(names, leaves, strict=True)), run.history, run.frame)


def train(spec: Spec, sessions: int | None = None, *, quiet: bool = True) -> Result:
    """Trains a spec in memory; compiled programs are kept on disk (`devices.cache_programs`), nothing else.

    Ctrl-C (the stop button of a notebook) ends training after the segment under way, one to three seconds, and returns
    the `Result` so far with a warning; its `frame` says how far it came. A second Ctrl-C interrupts at once and loses
    it. Signals reach the main thread alone, so elsewhere training cannot be interrupted so.

    Args:
        spec: from `load_spec`.
        sessions: how many, instead of `meta.max_session`; they differ in their seed alone.
        quiet: no progress.

    Raises:
        UserError: `spec` is not a spec.
        SpecError: the spec cannot work.
    """
    check_spec(spec)
    if sessions is not None:
        _check_sessions(sessions)
        spec = dataclasses.replace(spec, meta=dataclasses.replace(spec.meta, max_session=int(sessions)))
    devices.cache_programs()
    trial: Trial = make_trial(spec)
    total = budget(spec, trial.program)
    # Not SIGTERM: who wants the process to end does not want it to go on with half a result.
    with StopRequest(signal.SIGINT) as stop, Progress(total, spec.meta.max_session, quiet) as progress:
        run, _ = compile_segment(trial, start(trial))
        run = learn(trial, run, lambda run: _show(progress, run) and not stop.requested)
    failed = run.history.failed()
    if len(failed) == run.history.size:
        warnings.warn(f"every session failed by frame {max(failed.values())}; see `failed`", stacklevel=2)
    elif run.frame < total:
        warnings.warn(f"interrupted at frame {run.frame} of {total}; this is the result so far", stacklevel=2)
    return result_of(trial, run)


def _check_sessions(sessions: Any) -> None:
    """Refuses what `load_spec` would, and floats."""
    if isinstance(sessions, bool) or not isinstance(sessions, (int, np.integer)) or sessions < 1:
        raise fail(f"expected an integer >= 1, got {brief(repr(sessions))}", path="meta.max_session")


def _show(progress: Progress, run: Run) -> bool:
    progress.show(run)
    return True
