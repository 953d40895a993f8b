"""How fast slmjax is here, as a table. Run by hand: python benchmarks/speed.py [SECTION ...]

Every figure is a median with its spread (least to largest). Sections: throughput, driver, replay, memory, start.
Each measurement runs in a process of its own, so that caches, devices and memory are its own as well.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent
REPEAT = 5


def spread(values: list[float], digits: int = 0) -> str:
    """`median (least - largest)`."""
    show = lambda x: f"{x:,.{digits}f}"  # noqa: E731
    return f"{show(statistics.median(values))} ({show(min(values))} - {show(max(values))})"


# ------------------------------------------------------------------------------------- measurements, in a child


def measure_throughput(algorithm: str, sessions: int, frames: int) -> dict:
    """Compile seconds and frames/s of the bare program, over all sessions."""
    trial, run = _trial(algorithm, sessions, frames)
    from slmjax.lab.loop import compile_segment

    run, compile_seconds = compile_segment(trial, run)
    pace = []
    for _ in range(REPEAT + 1):
        seconds, run = _advance(trial, run, frames)
        pace.append(sessions * frames / seconds)
    return {"compile": compile_seconds, "pace": pace[1:], "devices": len(trial.population.devices)}


def measure_driver(algorithm: str, sessions: int, frames: int) -> dict:
    """Seconds of the lab's loop (rows of 500 frames, progress, checkpoints) and of the bare program, alternately.

    Checkpoints are those of a run with default settings: one a minute and one at the end. Importing Orbax, a second
    whatever the length of the run, is start-up and not counted.
    """
    import jax
    import orbax.checkpoint  # noqa: F401

    from slmjax.lab.checkpoint import Checkpoints
    from slmjax.lab.loop import compile_segment, learn, start
    from slmjax.lab.progress import Progress
    from slmjax.lab.stop import StopRequest
    from slmjax.lab.train import _Visitor

    bare, bare_run = _trial(algorithm, sessions, frames, log_frequency=frames)
    lab, lab_run = _trial(algorithm, sessions, frames, log_frequency=500)
    bare_run, _ = compile_segment(bare, bare_run)
    compile_segment(lab, lab_run)
    bare_seconds, lab_seconds = [], []
    for _ in range(REPEAT):
        seconds, bare_run = _advance(bare, bare_run, frames)
        bare_seconds.append(seconds)
        with tempfile.TemporaryDirectory() as folder, StopRequest() as stop, Progress(frames, sessions) as progress:
            checkpoints = Checkpoints(Path(folder))
            with contextlib.redirect_stdout(sys.stderr):
                run = start(lab)
                jax.block_until_ready(run.sessions)
                began = time.perf_counter()
                run = _without_evaluation(learn)(lab, run, _Visitor(lab, checkpoints, progress, stop))
                checkpoints.save(lab, run)
                checkpoints.close()
                lab_seconds.append(time.perf_counter() - began)
    return {"bare": bare_seconds, "lab": lab_seconds}


def measure_replay(sessions: int, repeat: int = 7) -> dict:
    """Microseconds of one iteration (10 environments, one batch of 128) at 10k and at 1M slots, alternately."""
    sizes = (10_000, 1_000_000)
    state = {}
    for slots in sizes:
        trial, run = _trial("dqn", sessions, 10_000, slots=slots)
        _, run = _advance(trial, run, 5000)
        state[slots] = [trial, run._replace(frame=2_000_000)]  # as if full: sampled over all of the ring
    found: dict[int, list[float]] = {slots: [] for slots in sizes}
    for _ in range(repeat):
        for slots in sizes:
            seconds, state[slots][1] = _advance(*state[slots], 20_000)
            found[slots].append(seconds / 2000 * 1e6)
    return {"us": found}


def measure_memory(algorithm: str, frames: int) -> dict:
    """Peak resident memory of a whole run, in MiB."""
    import slmjax

    spec = _spec(algorithm, frames)
    slmjax.train(spec, sessions=8)
    return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _spec(algorithm: str, frames: int, slots: int = 10_000, **meta: object) -> object:
    import specs

    wanted = {"ppo": lambda: specs.ppo(4, frames), "ppo64": lambda: specs.ppo(64, frames)}
    made = wanted.get(algorithm, lambda: specs.dqn(10, frames, slots))()
    return specs.resolve(made, **meta)


def _trial(algorithm: str, sessions: int, frames: int, slots: int = 10_000, **meta: object) -> tuple:
    from slmjax.lab import devices

    devices.use_every_core()
    devices.cache_programs()
    from slmjax.lab.build import make_trial
    from slmjax.lab.loop import start

    trial = make_trial(_spec(algorithm, frames, slots, max_session=sessions, **meta))
    return trial, start(trial)


def _advance(trial: object, run: object, frames: int) -> tuple[float, object]:
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


def _without_evaluation(learn: object) -> object:
    # The final evaluation is the user's wish, not the driver's cost.
    def learned(trial: object, run: object, visit: object) -> object:
        import numpy as np

        silent = lambda *_: np.zeros((trial.population.size, 1))  # noqa: E731
        return learn(trial._replace(population=trial.population._replace(evaluate=silent)), run, visit)

    return learned


# ------------------------------------------------------------------------------------------------- the parent


def child(cache: str, function: str, *arguments: object) -> dict:
    """Runs a measurement in a process of its own."""
    words = [sys.executable, str(HERE), "--child", json.dumps([function, *arguments])]
    environment = os.environ | {"SLMJAX_CACHE": cache, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=1800)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def throughput(cache: str) -> None:
    """Frames/s for 1, 8 and 64 sessions."""
    print("\n| program | sessions | devices | compile, cold s | compile, warm s | frames/s, all sessions |")
    print("|---|---|---|---|---|---|")
    alone: dict[str, float] = {}
    for name, label, frames in (
        ("ppo", "PPO, 4 envs", 100_000),
        ("ppo64", "PPO, 64 envs", 400_000),
        ("dqn", "DQN, 10 envs, 10k slots", 50_000),
    ):
        for sessions in (1, 8, 64):
            budget = max(frames // sessions, frames // 16)
            with tempfile.TemporaryDirectory() as fresh:
                cold = child(fresh, "measure_throughput", name, sessions, budget)
                warm = child(fresh, "measure_throughput", name, sessions, budget)
            pace = cold["pace"] + warm["pace"]
            print(
                f"| {label} | {sessions} | {warm['devices']} | {cold['compile']:.1f} | {warm['compile']:.1f} "
                f"| {spread(pace)} |",
                flush=True,
            )
            alone.setdefault(name, statistics.median(pace))
            if sessions == 8:
                print(f"| {label}: 8 sessions against 1 | | | | | {statistics.median(pace) / alone[name]:.2f}x |")


def driver(cache: str) -> None:
    """The lab's loop against the bare program."""
    print("\n| 1e6 frames | bare loop s | lab's loop s | overhead |\n|---|---|---|---|")
    for name, sessions in (("ppo", 1), ("ppo", 8), ("dqn", 8)):
        found = child(cache, "measure_driver", name, sessions, 1_000_000)
        ratio = [100 * (lab / bare - 1) for lab, bare in zip(found["lab"], found["bare"], strict=True)]
        print(
            f"| {name}, {sessions} sessions | {spread(found['bare'], 2)} | {spread(found['lab'], 2)} "
            f"| {spread(ratio, 1)} % |",
            flush=True,
        )


def replay(cache: str) -> None:
    """Sampling and updating at 10k and 1M slots."""
    print("\n| DQN iteration | 10k slots us | 1M slots us | ratio |\n|---|---|---|---|")
    for sessions in (1, 8):
        us = child(cache, "measure_replay", sessions)["us"]
        ratio = [b / a for a, b in zip(us["10000"], us["1000000"], strict=True)]
        print(
            f"| {sessions} sessions | {spread(us['10000'])} | {spread(us['1000000'])} | {spread(ratio, 2)} |",
            flush=True,
        )


def memory(cache: str) -> None:
    """Peak memory of long and short runs."""
    print("\n| peak memory, 8 sessions | 1e5 frames MiB | 1e6 frames MiB | ratio |\n|---|---|---|---|")
    for name in ("ppo", "dqn"):
        short, long = (
            [child(cache, "measure_memory", name, frames)["mib"] for _ in range(3)] for frames in (100_000, 1_000_000)
        )
        ratio = statistics.median(long) / statistics.median(short)
        print(f"| {name} | {spread(short)} | {spread(long)} | {ratio:.3f} |", flush=True)


def start(cache: str) -> None:
    """From the command to its first progress line."""
    del cache
    print("\n| to the first progress line | cold s | warm s |\n|---|---|---|")
    for config in ("dqn_cartpole", "ppo_cartpole"):
        cold, warm = [], []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as fresh:
                cold.append(first_line(config, fresh))
                warm.append(first_line(config, fresh))
        print(f"| configs/{config}.yaml | {spread(cold, 1)} | {spread(warm, 1)} |", flush=True)


def first_line(config: str, cache: str) -> float:
    """Seconds from starting the command to the first line that shows progress."""
    with tempfile.TemporaryDirectory() as data:
        words = [sys.executable, "-m", "slmjax.run", str(ROOT / "configs" / f"{config}.yaml"), "--data", data]
        environment = os.environ | {"SLMJAX_CACHE": cache, "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            for line in process.stdout or ():
                if line.startswith("frame "):
                    return time.perf_counter() - began
            sys.exit(f"{config} showed no progress")
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Prints the sections that were asked for."""
    sections = {"throughput": throughput, "driver": driver, "replay": replay, "memory": memory, "start": start}
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sections", nargs="*", help=f"default: all of {', '.join(sections)}")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        function, *values = json.loads(options.child)
        print(json.dumps(globals()[function](*values)))
        return
    import jax

    print(f"jax {jax.__version__}, {os.cpu_count()} cores, {sys.platform}")
    with tempfile.TemporaryDirectory() as cache:
        for name in options.sections or sections:
            sections[name](cache)


if __name__ == "__main__":
    main()
