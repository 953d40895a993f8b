"""Mode `train`: one trial, from a spec to a folder of checkpoints, tables and graphs."""

import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from slmjax.analysis.summary import summary
from slmjax.analysis.words import compact, plural
from slmjax.lab import folder as folders
from slmjax.lab import manifest
from slmjax.lab.checkpoint import Checkpoints, size_of
from slmjax.lab.loop import Run, compile_segment, learn, start
from slmjax.lab.progress import Progress
from slmjax.lab.report import draw_graphs, write_tables
from slmjax.lab.stop import EXIT_RESUMABLE, StopRequest
from slmjax.lab.trial import Trial, budget
from slmjax.schedules import Schedule, value
from slmjax.spec.sections import Spec
from slmjax.types import UserError

CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 60.0, 0.05  # between two of them, and of the time that they may take


class _Record:
    """The manifest of a run under way."""

    def __init__(self, folder: Path, spec: Spec, frame: int) -> None:
        self.folder, self.kept = folder, manifest.begin(folder, spec, "train", frame)

    def note(self, **facts: Any) -> None:
        self.kept = manifest.note(self.folder, self.kept, **facts)


class _Visitor:
    """What the lab does after every segment."""

    def __init__(
        self, trial: Trial, checkpoints: Checkpoints, progress: Progress, stop: StopRequest, record: _Record
    ) -> None:
        self.trial, self.checkpoints, self.progress, self.stop, self.record = trial, checkpoints, progress, stop, record
        self.saved_frame, self.failed = 0, set[int]()
        self.due_at = time.monotonic() + CHECKPOINT_SECONDS

    def __call__(self, run: Run) -> bool:
        self.progress.show(run)
        for session, frame in run.history.failed().items():
            if session not in self.failed:
                self.failed.add(session)
                self.progress.say(f"session {session} FAILED: not finite by frame {frame}; its best policy is kept")
        if self._due(run.frame) and (problem := self.save(run)):
            self.progress.say(f"warning: {problem}; what was learned since is not kept until one can be written")
        return not self.stop.requested

    def save(self, run: Run) -> OSError | None:
        """Writes a checkpoint: why it could not be, where it could not."""
        began, self.saved_frame = time.monotonic(), run.frame
        try:
            self.checkpoints.save(self.trial, run)
            self.record.note(checkpoint=run.frame)
        except OSError as error:
            return error
        except (MemoryError, RuntimeError) as error:  # JAX's errors of memory are RuntimeErrors
            return OSError(f"cannot write the checkpoint of frame {run.frame}: {str(error).splitlines()[0]}")
        finally:
            now = time.monotonic()
            self.due_at = now + max(CHECKPOINT_SECONDS, (now - began) / CHECKPOINT_SHARE)
        return None

    def _due(self, frame: int) -> bool:
        period = self.trial.spec.meta.checkpoint_frequency
        if period is not None:
            return frame // period > self.saved_frame // period
        return time.monotonic() > self.due_at


def train(trial: Trial, folder: Path, *, resume: bool = False, quiet: bool = False) -> int:
    """Runs a trial in its folder: the exit code, 0 when it is complete, 75 when it was asked to stop and can go on.

    Every session that fails is named; the code is 1 only when all of them did. With `resume`, it goes on from the
    newest checkpoint in the folder.

    Raises:
        UserError: the checkpoint in the folder fits another spec, or the run had one that is gone.
        OSError: the last checkpoint could not be written; tables and graphs have been.
    """
    began, spec = time.perf_counter(), trial.spec
    checkpoints, log = Checkpoints(folder / "model"), folder / "log" / f"{spec.name}.log"
    total = budget(spec, trial.program)
    with (
        folders.locked(folder),
        StopRequest(signal.SIGINT, signal.SIGTERM) as stop,
        Progress(total, spec.meta.max_session, quiet, log) as progress,
    ):
        run = _last(trial, folder, checkpoints) if resume else start(trial)
        # Only now: a checkpoint that cannot be read must leave the record of the run as it is.
        if resume:
            folders.write_spec(spec, folder)
        record, before = _Record(folder, spec, run.frame), run.history.wall_t
        _introduce(trial, folder, run, checkpoints, record, progress)
        run, compile_seconds = compile_segment(trial, run)
        progress.say(f"compiled in {compile_seconds:.1f} s")
        visitor = _Visitor(trial, checkpoints, progress, stop, record)
        visitor.saved_frame = run.frame
        run = run if stop.requested else learn(trial, run, visitor)
        problem = visitor.save(run)
        seconds = {"compile_seconds": compile_seconds, "run_seconds": run.history.wall_t - before}
        code = _finish(spec, run, folder, record, progress)
        record.note(**seconds, total_seconds=time.perf_counter() - began)
        if problem is not None:
            progress.say("tables and graphs are complete; what was learned since the checkpoint before is lost")
            raise problem
        return code


def _last(trial: Trial, folder: Path, checkpoints: Checkpoints) -> Run:
    """The run as its newest checkpoint has it; one that never had a checkpoint begins."""
    if checkpoints.frames():
        return checkpoints.load(trial)
    frame = manifest.read(folder).get("checkpoint")
    if frame is None and not any((folder / "info").glob("*.csv")):
        return start(trial)
    had = "has tables, so it had one" if frame is None else f"had one at frame {frame}"
    raise UserError(
        f"the checkpoints of the run are gone: it {had}, and {checkpoints.folder} holds none. Put them back, or start "
        f"a new run: python -m slmjax.run {shlex.quote(str(folders.find_spec(folder)))}"
    )


def _introduce(
    trial: Trial, folder: Path, run: Run, checkpoints: Checkpoints, record: _Record, progress: Progress
) -> None:
    """Says what is about to run, and what a person would wish to know before it does."""
    for frame, problem in checkpoints.damaged.items():
        progress.say(f"the checkpoint of frame {frame} is passed over: {problem}")
    progress.say(_headline(trial, folder, run))
    if changed := manifest.changes(record.kept):
        progress.say(f"note: not all is as it was when the run stopped ({'; '.join(changed)}): bits may differ")
    _warn(trial, run, progress)


def _warn(trial: Trial, run: Run, progress: Progress) -> None:
    """Says what a person would wish to know before waiting for a run that cannot learn."""
    spec = trial.spec
    if spec.search:
        progress.say("note: `search` is kept in the spec; this mode runs its base settings alone")
    warmup = trial.program.warmup_iterations * trial.program.iteration_frames
    if trial.program.opt_steps and budget(spec, trial.program) <= warmup:
        progress.say(f"warning: nothing will be learned, the warm-up of {warmup} frames is all of env.max_frame")
    rate = getattr(getattr(spec.hp.net, "optim_spec", None), "lr", None)
    if isinstance(rate, Schedule) and run.frame and float(value(rate, run.frame)) == 0.0:
        progress.say(f"warning: nothing more will be learned, the learning rate is 0 at frame {run.frame}")


def _headline(trial: Trial, folder: Path, run: Run) -> str:
    spec, devices, threads = trial.spec, trial.population.devices, trial.population.threads
    platform = devices[0].platform
    kind = plural(threads, "core") if platform == "cpu" else plural(len(devices), f"{platform} device")
    resumed = f", from frame {run.frame}" if run.frame else ""
    size = f"{plural(spec.meta.max_session, 'session')} x {plural(spec.env.num_envs, 'environment')}"
    return (
        f"{spec.name}: {spec.agent.algorithm.name} on {spec.env.name}, {size} x {compact(spec.env.max_frame)} frames "
        f"on {kind}{resumed}\n{_checkpoint_plan(trial)}\n{folder}"
    )


def _checkpoint_plan(trial: Trial) -> str:
    """How often checkpoints are written, and what each writes: at every row they can take longer than the learning."""
    period, size = trial.spec.meta.checkpoint_frequency, f"{compact(size_of(trial))}B"
    if period is None:
        return f"a checkpoint ({size}) every minute"
    total, grain = budget(trial.spec, trial.program), trial.program.iteration_frames
    every = max(period, grain)
    many = total // every
    last = -(-many * every // grain) * grain  # at the end of an iteration; one more where that is not the end of all
    return f"a checkpoint ({size}) every {compact(period)} frames: {many + (last < total)} in all"


def _finish(spec: Spec, run: Run, folder: Path, record: _Record, progress: Progress) -> int:
    """Writes what is left to write, tells what came out."""
    say = progress.say
    failed = run.history.failed()
    lost = len(failed) == run.history.size
    complete = lost or run.frame >= spec.env.max_frame
    report = write_tables(spec, run.history, folder) if run.history.rows else None
    if report is not None:
        say(summary(report.metrics))
    record.note(state="complete" if complete else "stopped", frame=run.frame, failed=failed)
    for session, frame in failed.items():
        print(f"session {session} FAILED: not finite by frame {frame}", file=sys.stderr, flush=True)
    if not complete:
        say(f"stopped at frame {run.frame}; go on with: python -m slmjax.run --resume {shlex.quote(str(folder))}")
    if report is not None:  # last: what cannot be drawn leaves nothing else unsaid
        say(f"graphs: {draw_graphs(spec, report, folder)}")
    return (1 if lost else 0) if complete else EXIT_RESUMABLE
