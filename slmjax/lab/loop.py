"""The one loop of the lab: segments of a population, and a visit after each.

A visit is where the outside world comes in: progress, signals, checkpoints, evaluations. How far a segment reaches
follows the clock (about a second, for many sessions up to three), so a visit costs nothing worth naming and a signal is
soon heard; what a session learns and logs does not depend on it, because rows are kept inside the program. Evaluations
and checkpoints that the spec asks for at certain frames happen at those frames: evaluations at the end of that row,
checkpoints at the end of that iteration.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from slmjax.batches import Batches
from slmjax.lab.history import History
from slmjax.lab.trial import Trial, budget
from slmjax.session import MAX_ROWS, Program

VISIT_SECONDS = 1.0
# To call the program costs a batch as much as a fifth of an iteration of a small one. Many sessions, of which a second
# sees one iteration, are visited after this many, unless that takes thrice as long as a visit should.
ENOUGH = 4


class Run(NamedTuple):
    """A run under way: where it is, what it knows, what it has logged."""

    frame: int
    sessions: Batches
    history: History


# Called after every segment; returning False ends the loop there.
Visit = Callable[[Run], bool]


def start(trial: Trial) -> Run:
    """A run at frame 0."""
    return Run(0, trial.population.init(trial.keys, trial.hp), History(trial.population.size))


def compile_segment(trial: Trial, run: Run) -> tuple[Run, float]:
    """Compiles the program by running a segment of no length: the run as it was, and the seconds it took.

    It closes no row: within one, that would end it.
    """
    began = time.perf_counter()
    sessions, _ = trial.population.segment(run.sessions, trial.hp, run.frame, run.frame, close=False)
    jax.block_until_ready(sessions)
    return run._replace(sessions=sessions), time.perf_counter() - began


def learn(trial: Trial, run: Run, visit: Visit) -> Run:
    """Continues a run to its budget, until `visit` says no, or until every session has failed."""
    program, meta, end = trial.program, trial.spec.meta, budget(trial.spec, trial.program)
    wish, late = program.iteration_frames, late_frame(trial)
    while run.frame < end and len(run.history.failed()) < run.history.size:
        periods = ((meta.eval_frequency, program.row_frames), (meta.checkpoint_frequency, program.iteration_frames))
        marks = [_next(run.frame, period, grain) for period, grain in periods if period]
        stop = min([_reach(program, run.frame, wish), end, *marks])
        began = time.perf_counter()
        sessions, logs = trial.population.segment(run.sessions, trial.hp, run.frame, stop, stop == end, late)
        seconds = time.perf_counter() - began
        run.history.append(program, logs, run.frame, stop, seconds, stop == end)
        if stop == end or _crossed(run.frame, stop, meta.eval_frequency, program.row_frames):
            returns = trial.population.evaluate(sessions, trial.hp, stop)
            run.history.note_evaluation(returns)
        wish = _wish(stop - run.frame, seconds, program.iteration_frames)
        run = Run(stop, sessions, run.history)
        if not visit(run):
            break
    return run


def late_frame(trial: Trial) -> int:
    """Where the last tenth of the budget begins, in whole iterations: the episodes that end from there on are final."""
    size, end = trial.program.iteration_frames, budget(trial.spec, trial.program)
    return end - max(end // size // 10, 1) * size


def _wish(frames: int, seconds: float, size: int) -> int:
    """Frames of the next segment, after one of `frames` that took `seconds`, where an iteration holds `size`."""
    pace = frames / max(seconds, 1e-9)
    few = min(ENOUGH * size, pace * 3 * VISIT_SECONDS)
    return int(max(min(pace * VISIT_SECONDS, 8 * frames), few))


def _reach(program: Program, frame: int, wish: int) -> int:
    """Where a segment of about `wish` frames ends: at the end of a row if it spans one, else of an iteration."""
    row, size = program.row_frames, program.iteration_frames
    boundary = min((frame + wish) // row, frame // row + MAX_ROWS) * row
    if boundary > frame:
        return boundary
    return min(frame + max(wish // size, 1) * size, (frame // row + 1) * row)


def _next(frame: int, period: int, grain: int) -> int:
    """The end of the row (or iteration) of `grain` frames in which the next multiple of `period` lies.

    Counted from the beginning of the one that `frame` lies in.
    """
    mark = (frame // grain * grain // period + 1) * period
    return -(-mark // grain) * grain


def _crossed(before: int, now: int, period: int | None, row_frames: int) -> bool:
    """Whether a row ended in which a multiple of `period` lies."""
    return period is not None and now >= _next(before, period, row_frames)
