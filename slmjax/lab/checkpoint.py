"""Complete checkpoints: everything a run is, there whole or not at all, the last two kept.

    model/
      FRAME/        every leaf of all sessions by name, `[S, ...]` (`lab.leaves`)
      rows/A-B/     the log rows A to B - 1 of every column, `[S, B - A]`

A run is stored without the lanes that pad a population, so it can be continued on another number of devices. The best
policy of each session is part of its state. Leaves go to the disk one by one as the devices hold them: no second copy
of the state is made, neither in writing nor in reading.

Rows that are on the disk are not written again with each checkpoint. What is new is a chunk of its own; chunks are
joined as in a binary counter, so there are few of them, and in all a row is written as often as the logarithm of their
number.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slmjax.batches import Batches
from slmjax.lab import leaves
from slmjax.lab.arrays import as_leaf, check, described, is_key, named
from slmjax.lab.history import History
from slmjax.lab.loop import Run
from slmjax.lab.memory import bytes_of
from slmjax.lab.trial import Trial
from slmjax.spec.dump import to_dict
from slmjax.spec.errors import show
from slmjax.spec.sections import Spec
from slmjax.types import UserError

# What may change between two parts of one run: nothing that a session's past depends on.
CHANGEABLE = ("env.max_frame", "meta.eval_frequency", "meta.checkpoint_frequency", "meta.session_graphs")
KEEP = 2
KIND = "checkpoint"
ROWS = "rows"

_OURS = re.compile(r"\d+(-\d+)?|\..+\.(part|old)")  # names that are written here

Chunk = tuple[int, int]  # log rows from, up to


class Checkpoints:
    """The checkpoints under one folder."""

    def __init__(self, folder: Path) -> None:
        """`folder` need not exist yet."""
        self.folder = folder
        self.damaged: dict[int, str] = {}  # frame -> what was wrong with the checkpoint of that frame
        self._sound: dict[int, list[Chunk]] = {}  # frame -> its chunks of rows, of those that this object wrote or read

    def frames(self) -> list[int]:
        """Frames of the checkpoints that are there."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in found if path.name.isdigit())

    def save(self, trial: Trial, run: Run) -> None:
        """Writes a run and deletes what is older than the last two; a checkpoint of that frame is not written twice.

        Raises:
            OSError: it could not be written (the disk is full); those before it are as they were.
        """
        if run.frame in self._sound:
            return
        before = self._sound[max(self._sound)] if self._sound else []
        chunks = _joined(before, run.history.rows)
        try:
            for chunk in chunks:
                if chunk not in before:
                    _write_anew(self._chunk(chunk), {"kind": ROWS}, _rows(run.history, chunk))
            about = {"kind": KIND, "frame": run.frame, "size": run.history.size, "wall_t": run.history.wall_t}
            about |= {"spec": to_dict(trial.spec), "rows": chunks}
            _write_anew(self.folder / str(run.frame), about, _leaves(trial, run.sessions))
        except OSError as error:
            why = error.strerror or error
            raise OSError(f"cannot write the checkpoint of frame {run.frame} to {self.folder}: {why}") from error
        kept = sorted([*self._sound, run.frame])[-KEEP:]
        self._sound = {frame: self._sound.get(frame, chunks) for frame in kept}
        self._tidy()

    def load(self, trial: Trial) -> Run:
        """The newest run that can be read; unreadable ones are noted in `damaged` and passed over.

        Raises:
            UserError: no checkpoint can be read, or the newest does not fit this spec.
        """
        for frame in reversed(self.frames()):
            try:
                about, entries, arrays = leaves.stream(self.folder / str(frame))
                chunks = _about(about, frame)
            except UserError as error:
                self.damaged[frame] = str(error)
                continue
            _check_same(about["spec"], trial.spec)
            check(_template(trial), {entry.name: entry for entry in entries}, "the checkpoint", exact=True)
            try:
                sessions = _place(trial, arrays)
                history = History(trial.population.size, about["wall_t"], self._read_rows(chunks))
            except UserError as error:
                self.damaged[frame] = str(error)
                continue
            self._sound = {frame: chunks}
            return Run(frame, sessions, history)
        said = "\n  ".join(f"{self.folder / str(frame)}: {why}" for frame, why in self.damaged.items())
        raise UserError(f"no readable checkpoint:\n  {said or f'{self.folder} holds none'}")

    def _read_rows(self, chunks: list[Chunk]) -> dict[str, np.ndarray]:
        parts = [leaves.read(self._chunk(chunk))[1] for chunk in chunks]
        names = parts[0] if parts else {}
        if any(part.keys() != names.keys() for part in parts):
            raise UserError(f"the chunks of rows in {self.folder / ROWS} hold different columns.")
        return {name: np.concatenate([part[name] for part in parts], 1) for name in names}

    def _chunk(self, chunk: Chunk) -> Path:
        return self.folder / ROWS / f"{chunk[0]}-{chunk[1]}"

    def _tidy(self) -> None:
        """Deletes what no kept checkpoint needs: older ones, damaged ones, what a killed process left behind."""
        chunks = {self._chunk(chunk) for chunks in self._sound.values() for chunk in chunks}
        kept = {self.folder / str(frame) for frame in self._sound} | chunks
        for path in (*self.folder.iterdir(), *(self.folder / ROWS).glob("*")):
            if path not in kept and _OURS.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _write_anew(folder: Path, about: dict[str, Any], what: Iterator[leaves.Leaf]) -> None:
    """Writes a folder; what has its name could not be read or is of no checkpoint that is kept."""
    shutil.rmtree(folder, ignore_errors=True)
    leaves.write(folder, about, what)


def size_of(trial: Trial) -> int:
    """Bytes of one checkpoint, log rows left out."""
    return bytes_of(_template(trial))


def _joined(chunks: list[Chunk], rows: int) -> list[Chunk]:
    """Chunks that hold `rows` rows: those that are there, and new ones for what has come since."""
    start = chunks[-1][1] if chunks else 0
    kept = list(chunks)
    if rows == start:
        return kept
    while kept and kept[-1][1] - kept[-1][0] <= rows - start:
        start = kept.pop()[0]
    return [*kept, (start, rows)]


def _rows(history: History, chunk: Chunk) -> Iterator[leaves.Leaf]:
    part = slice(*chunk)
    return leaves.whole({name: np.ascontiguousarray(values[:, part]) for name, values in history.columns.items()})


def _leaves(trial: Trial, sessions: Batches) -> Iterator[leaves.Leaf]:
    for (name, want), parts in zip(described(_template(trial)), trial.population.parts(sessions), strict=True):
        yield name, want.shape, want.dtype, parts


def _template(trial: Trial) -> Any:
    """Shapes and dtypes of all sessions, `[S, ...]`."""
    one = jax.eval_shape(trial.program.init, *jax.tree.map(lambda x: x[0], (trial.keys[0], trial.hp[0])))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((trial.population.size, *x.shape), x.dtype), one)


def _about(about: dict[str, Any], frame: int) -> list[Chunk]:
    """Holds what a checkpoint says of itself against what is needed: its chunks of rows."""
    right = about.get("kind") == KIND and about.get("frame") == frame
    right = right and isinstance(about.get("spec"), dict) and isinstance(about.get("wall_t"), float)
    try:
        chunks = [(int(first), int(end)) for first, end in about["rows"]]
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise UserError(f"it does not say that it is the checkpoint of frame {frame}.")
    return chunks


def _check_same(before: dict[str, Any], spec: Spec) -> None:
    """Refuses to go on with a spec that is not the one that the checkpoint came from."""
    old, new = dict(_dotted(before)), dict(_dotted(json.loads(json.dumps(to_dict(spec)))))
    for name in [*old, *new]:
        if old.get(name) != new.get(name) and name not in CHANGEABLE:
            raise UserError(
                f"the run was started with another spec: {name} was {show(old.get(name))} and is "
                f"{show(new.get(name))}. Only {', '.join(CHANGEABLE)} may change."
            )


def _dotted(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(path, tree)]
    return [pair for key, value in tree.items() for pair in _dotted(value, f"{path}.{key}" if path else key)]


def _place(trial: Trial, arrays: Iterator[tuple[str, np.ndarray]]) -> Batches:
    """Sessions on the devices from their leaves, one at a time."""
    template = _template(trial)
    wanted = dict(named(template))
    placed = {}
    for name, value in arrays:
        want = wanted[name]
        placed[name] = trial.population.place(as_leaf(want, value) if is_key(want) else value)
    batches = zip(*(placed[name] for name in wanted), strict=True)
    return tuple(jax.tree.unflatten(jax.tree.structure(template), batch) for batch in batches)
