"""The log rows of a population as they come in: one array `[S, rows]` a column."""

import dataclasses

import numpy as np

from slmjax.session import Program


@dataclasses.dataclass
class History:
    """Rows so far. `columns` maps a name to `[S, rows]`; `frame` and `wall_t` are the same for every session.

    Attributes:
        size: sessions.
        wall_t: seconds spent in training so far, compilation and evaluation excluded.
        columns: see above.
    """

    size: int
    wall_t: float = 0.0
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    _room: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.columns["frame"].shape[1] if self.columns else 0

    def append(
        self, program: Program, rows: dict[str, np.ndarray], start: int, stop: int, seconds: float, close: bool
    ) -> None:
        """Adds the rows that ended between two frames; time is shared out evenly over frames."""
        step = program.row_frames
        frame = np.arange(start // step + 1, stop // step + 1) * step
        frame = np.append(frame, stop) if close and stop % step else frame
        clock = self.wall_t + seconds * (frame - start) / max(stop - start, 1)
        self.wall_t += seconds
        count = len(frame)
        if count == 0:
            return
        before = [self.columns[name][0, -1] if self.columns else 0 for name in ("frame", "wall_t")]
        fresh = {
            "frame": frame,
            "wall_t": clock,
            "fps": np.diff(frame, prepend=before[0]) / np.maximum(np.diff(clock, prepend=before[1]), 1e-9),
            "opt_step": np.maximum(frame // program.iteration_frames - program.warmup_iterations, 0)
            * program.opt_steps,
        }
        fresh = {name: np.broadcast_to(values, (self.size, count)) for name, values in fresh.items()}
        fresh |= _with_gaps({name: np.asarray(values)[:, :count] for name, values in rows.items()})
        missing = np.full((self.size, count), np.nan)
        fresh |= {"eval_reward": missing, "eval_reward_std": missing}
        self.columns = {name: self._longer(name, values) for name, values in fresh.items()}

    def _longer(self, name: str, fresh: np.ndarray) -> np.ndarray:
        """A column with rows at its end. It lies in an array with room for more: nothing is copied at most visits."""
        before = self.columns.get(name, fresh[:, :0])
        rows = before.shape[1] + fresh.shape[1]
        room = self._room.get(name)
        if room is None or room.shape[1] < rows:
            room = self._room[name] = np.empty((self.size, 2 * rows), np.result_type(before, fresh))
            room[:, : before.shape[1]] = before
        room[:, before.shape[1] : rows] = fresh
        return room[:, :rows]

    def note_evaluation(self, returns: np.ndarray) -> None:
        """Writes an evaluation `[S, episodes]` into the newest row."""
        self.columns["eval_reward"][:, -1] = returns.mean(1)
        self.columns["eval_reward_std"][:, -1] = returns.std(1)

    def failed(self) -> dict[int, int]:
        """Sessions in which something became NaN or infinite -> the frame by which it had."""
        if not self.columns:
            return {}
        last = self.columns["failed"][:, -1]
        return {int(i): int(last[i]) for i in np.flatnonzero(last >= 0)}

    def session(self, i: int) -> dict[str, np.ndarray]:
        """Columns of one session, `[rows]` each, without the rows after it failed."""
        columns = {name: values[i] for name, values in self.columns.items()}
        failed = columns.pop("failed")
        alive = failed < 0
        return {name: values[alive] for name, values in columns.items()}


def _with_gaps(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The program's rows with NaN where there was no episode, or no update, to average."""
    updates = rows.pop("updates")
    silent, never = rows["episodes"] == 0, rows["final_episodes"] == 0
    gap = {"total_reward": rows["epi"] == 0, "mean_return": silent, "mean_length": silent, "final_return": never}
    gap |= dict.fromkeys(("epi", "episodes", "final_episodes", "failed"), False)
    empty = {name: gap.get(name, updates == 0) for name in rows}
    return {name: np.where(empty[name], np.nan, x) if empty[name] is not False else x for name, x in rows.items()}
