"""Mode `train`: one trial, from a spec to a folder of checkpoints, tables and graphs."""

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from slmjax.lab import folder as folders
from slmjax.lab.build import Trial, budget
from slmjax.lab.checkpoint import Checkpoints
from slmjax.lab.loop import Run, compile_segment, learn, start
from slmjax.lab.progress import Progress, compact
from slmjax.lab.report import write_report
from slmjax.lab.stop import EXIT_RESUMABLE, StopRequest
from slmjax.policies.schedules import Schedule, value
from slmjax.spec.sections import Spec

CHECKPOINT_SECONDS = 60.0


class _Visitor:
    """What the lab does after every segment."""

    def __init__(self, trial: Trial, checkpoints: Checkpoints, progress: Progress, stop: StopRequest) -> None:
        self.trial, self.checkpoints, self.progress, self.stop = trial, checkpoints, progress, stop
        self.saved_at, self.saved_frame, self.failed = time.monotonic(), 0, set[int]()

    def __call__(self, run: Run) -> bool:
        self.progress.show(run)
        for session, frame in run.history.failed().items():
            if session not in self.failed:
                self.failed.add(session)
                self.progress.say(f"session {session} FAILED: not finite by frame {frame}; frozen, the others go on")
        if self._due(run.frame):
            self.checkpoints.save(self.trial, run)
            self.saved_at, self.saved_frame = time.monotonic(), run.frame
        return not self.stop.requested

    def _due(self, frame: int) -> bool:
        period = self.trial.spec.meta.checkpoint_frequency
        if period is not None:
            return frame // period > self.saved_frame // period
        return time.monotonic() - self.saved_at > CHECKPOINT_SECONDS


def train(trial: Trial, folder: Path, *, resume: bool = False, quiet: bool = False) -> int:
    """Runs a trial in its folder: the exit code, 0 when it is complete, 75 when it was asked to stop and can go on.

    Every session that fails is named; the code is 1 only when all of them did. With `resume`, it goes on from the
    newest checkpoint in the folder, if there is one.

    Raises:
        UserError: the checkpoint in the folder fits another spec.
    """
    began, spec = time.perf_counter(), trial.spec
    checkpoints, log = Checkpoints(folder / "model"), folder / "log" / f"{spec.name}.log"
    total = budget(spec, trial.program)
    with folders.locked(folder), StopRequest() as stop, Progress(total, spec.meta.max_session, quiet, log) as progress:
        run = checkpoints.load(trial) if resume and checkpoints.latest() is not None else start(trial)
        # Only now: a checkpoint that cannot be read must leave the record of the run as it is.
        if resume:
            folders.write_spec(spec, folder)
        folders.write_manifest(spec, folder, "train", "running")
        for frame, problem in checkpoints.damaged.items():
            progress.say(f"the checkpoint of frame {frame} could not be read and is gone: {problem}")
        progress.say(_headline(trial, folder, run))
        _warn(trial, run, progress)
        run, compile_seconds = compile_segment(trial, run)
        progress.say(f"compiled in {compile_seconds:.1f} s")
        visitor = _Visitor(trial, checkpoints, progress, stop)
        visitor.saved_frame = run.frame
        run = run if stop.requested else learn(trial, run, visitor)
        checkpoints.save(trial, run)
        checkpoints.close()
        facts = {"frame": run.frame, "compile_seconds": compile_seconds, "run_seconds": run.history.wall_t}
        return _finish(spec, run, folder, {**facts, "total_seconds": time.perf_counter() - began}, progress)


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
    spec, devices = trial.spec, trial.population.devices
    kind = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
    resumed = f", from frame {run.frame}" if run.frame else ""
    size = f"{plural(spec.meta.max_session, 'session')} x {plural(spec.env.num_envs, 'environment')}"
    return (
        f"{spec.name}: {spec.agent.algorithm.name} on {spec.env.name}, {size} x {compact(spec.env.max_frame)} frames "
        f"on {kind}{resumed}\n{folder}"
    )


def plural(count: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _finish(spec: Spec, run: Run, folder: Path, facts: dict[str, Any], progress: Progress) -> int:
    """Writes what is left to write, tells what came out."""
    say = progress.say
    failed = run.history.failed()
    lost = len(failed) == run.history.size
    complete = lost or run.frame >= spec.env.max_frame
    if run.history.rows:
        metrics = write_report(spec, run.history, folder)
        say(summary(metrics))
        say(f"graphs: {folder / 'graph' / f'{spec.name}_t0_trial_graph.png'}")
    folders.write_manifest(spec, folder, "train", "complete" if complete else "stopped", failed=failed, **facts)
    for session, frame in failed.items():
        print(f"session {session} FAILED: not finite by frame {frame}", file=sys.stderr, flush=True)
    if not complete:
        say(f"stopped at frame {run.frame}; go on with: python -m slmjax.run --resume {shlex.quote(str(folder))}")
        return EXIT_RESUMABLE
    return 1 if lost else 0


def _reason(metrics: dict[str, Any]) -> str:
    """Why there is no return to show, where there is none."""
    if metrics["final_return"] is not None:
        return ""
    if len(metrics["failed"]) == metrics["num_sessions"]:
        return " (every session failed)"
    some = len(metrics["failed"]) + len(metrics["no_episode"]) < metrics["num_sessions"]
    return " (no episode ended in the last tenth of the budget)" if some else " (no episode ended)"


def summary(metrics: dict[str, Any]) -> str:
    """The trial in one line: what was earned at the end of training, with its interval, and what is played greedily."""
    from slmjax.analysis.style import number

    show = lambda name: "none" if metrics.get(name) is None else number(metrics[name])  # noqa: E731
    low, high = metrics["final_return_ci95"]
    interval = "" if low is None else f" [{number(low)}, {number(high)}]"
    odd = [f"{len(metrics[k])} {text}" for k, text in (("failed", "failed"), ("no_episode", "silent")) if metrics[k]]
    return (
        f"final return {show('final_return')}{interval}{_reason(metrics)}, "
        f"greedy evaluation {show('final_eval_reward')}, {plural(metrics['num_sessions'], 'session')}"
        + (f" ({', '.join(odd)})" if odd else "")
    )
