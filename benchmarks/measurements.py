"""What `speed.py` measures, each in a process of its own: `python benchmarks/measurements.py '["replay", 1, ...]'`."""

import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def throughput(algorithm: str, sessions: int, frames: int, repeat: int) -> dict:
    """Compile seconds and frames/s of the bare program, over all sessions."""
    trial, run = _trial(algorithm, sessions, frames)
    from slmjax.lab.loop import compile_segment

    run, compile_seconds = compile_segment(trial, run)
    pace = []
    for _ in range(repeat + 1):
        seconds, run = advance(trial, run, frames)
        pace.append(sessions * frames / seconds)
    return {"compile": compile_seconds, "pace": pace[1:], "cores": trial.population.threads}


def driver(algorithm: str, sessions: int, frames: int, repeat: int) -> dict:
    """Seconds of the lab's loop (rows of 500 frames, progress, checkpoints) and of the bare program, alternately.

    Checkpoints are those of a run with default settings: one a minute and one at the end.
    """
    import jax

    from slmjax.lab.loop import compile_segment, start

    bare, bare_run = _trial(algorithm, sessions, frames, log_frequency=frames)
    lab, lab_run = _trial(algorithm, sessions, frames, log_frequency=500)
    bare_run, _ = compile_segment(bare, bare_run)
    compile_segment(lab, lab_run)
    bare_seconds, lab_seconds = [], []
    for _ in range(repeat):
        seconds, bare_run = advance(bare, bare_run, frames)
        bare_seconds.append(seconds)
        run = start(lab)
        jax.block_until_ready(run.sessions)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            lab_seconds.append(_learn(lab, run, Path(folder)))
    return {"bare": bare_seconds, "lab": lab_seconds}


def _learn(trial: Any, run: Any, folder: Path) -> float:
    """Seconds that the lab takes for a run, its evaluation apart: that is the user's wish, not the driver's cost."""
    import numpy as np

    from slmjax.lab.checkpoint import Checkpoints
    from slmjax.lab.loop import learn
    from slmjax.lab.progress import Progress
    from slmjax.lab.stop import StopRequest
    from slmjax.lab.train import _Record, _Visitor

    silent = lambda *_: np.zeros((trial.population.size, 1))  # noqa: E731
    mute = trial._replace(population=trial.population._replace(evaluate=silent))
    frames, sessions = trial.spec.env.max_frame, trial.spec.meta.max_session
    with StopRequest() as stop, Progress(frames, sessions) as progress:
        began = time.perf_counter()
        visitor = _Visitor(trial, Checkpoints(folder / "model"), progress, stop, _Record(folder, trial.spec, 0))
        if problem := visitor.save(learn(mute, run, visitor)):
            raise problem
        return time.perf_counter() - began


def replay(sessions: int, slots: list[int], stretch: int, repeat: int) -> dict:
    """Microseconds of one iteration (10 environments, one batch of 128) for each number of slots, alternately."""
    state = []
    for size in slots:
        trial, run = _trial("dqn", sessions, 10_000, slots=size)
        _, run = advance(trial, run, stretch // 4)
        state.append([trial, run._replace(frame=2_000_000)])  # as if full: sampled over all of the ring
    found: list[list[float]] = [[] for _ in slots]
    for _ in range(repeat):
        for one, us in zip(state, found, strict=True):
            seconds, one[1] = advance(*one, stretch)
            us.append(seconds / stretch * 10 * 1e6)
    return {"us": found}


def memory(algorithm: str, sessions: int, frames: int) -> dict:
    """Peak resident memory of a whole run, in MiB."""
    import slmjax

    slmjax.train(_spec(algorithm, frames), sessions=sessions)
    return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _spec(algorithm: str, frames: int, slots: int = 10_000, **meta: object) -> object:
    import specs

    wanted: dict[str, Callable[[], dict]] = {
        "ppo": lambda: specs.ppo(4, frames),
        "ppo64": lambda: specs.ppo(64, frames),
        "dqn": lambda: specs.dqn(10, frames, slots),
        "random": lambda: specs.random(4, frames),
    }
    return specs.resolve(wanted[algorithm](), **meta)


def _trial(algorithm: str, sessions: int, frames: int, slots: int = 10_000, **meta: object) -> tuple:
    from slmjax.lab import devices

    devices.cache_programs()
    from slmjax.lab.loop import start
    from slmjax.lab.trial import make_trial

    trial = make_trial(_spec(algorithm, frames, slots, max_session=sessions, **meta))
    return trial, start(trial)


def advance(trial: Any, run: Any, frames: int) -> tuple[float, Any]:
    """Seconds that the bare program takes for `frames` more, and the run after them."""
    import jax

    from slmjax.session import MAX_ROWS

    program, began = trial.program, time.perf_counter()
    stop = run.frame + frames // program.iteration_frames * program.iteration_frames
    while run.frame < stop:
        until = min(stop, run.frame + MAX_ROWS * program.row_frames - run.frame % program.row_frames)
        sessions, _ = trial.population.segment(run.sessions, trial.hp, run.frame, until)
        run = run._replace(sessions=sessions, frame=until)
    jax.block_until_ready(run.sessions)
    return time.perf_counter() - began, run


if __name__ == "__main__":
    name, *values = json.loads(sys.argv[1])
    print(json.dumps(globals()[name](*values)))
