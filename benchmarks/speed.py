"""How fast slmjax is here, as tables:

    python benchmarks/speed.py                  all of them, 15 minutes on two cores
    python benchmarks/speed.py driver replay    two of throughput, driver, replay, memory, start
    python benchmarks/speed.py --quick          as little as shows that it works; the figures mean nothing

Every figure is a median with its spread (least to largest). Each measurement runs in a process of its own, so that
caches, devices and memory are its own as well.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import measurements

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent


class Size(NamedTuple):
    """How much is measured; frames are those of each session."""

    programs: tuple[tuple[str, str, int], ...] = (  # name, label, frames of a session that is alone
        ("ppo", "PPO, 4 envs", 100_000),
        ("ppo64", "PPO, 64 envs", 400_000),
        ("dqn", "DQN, 10 envs, 10k slots", 50_000),
    )
    widths: tuple[int, ...] = (1, 8, 64)
    repeat: int = 5
    loops: tuple[tuple[str, int], ...] = (("ppo", 1), ("ppo", 8), ("dqn", 8))
    frames: int = 1_000_000  # of a run through the lab's loop, and of the long runs of `memory`
    slots: tuple[int, int] = (10_000, 1_000_000)
    stretch: int = 20_000  # frames of which the mean iteration is taken
    configs: tuple[str, ...] = ("dqn_cartpole", "ppo_cartpole")
    crowd: int = 8  # sessions of `memory`
    apart: bool = True  # each measurement in a process of its own


QUICK = Size(
    programs=(("random", "Random, 4 envs", 2000),),
    widths=(1,),
    repeat=1,
    loops=(("random", 1),),
    frames=2000,
    slots=(4000, 4000),
    stretch=500,
    configs=("reinforce_cartpole",),
    crowd=1,
    apart=False,
)


def spread(values: list[float], digits: int = 0) -> str:
    """`median (least - largest)`."""
    show = lambda x: f"{x:,.{digits}f}"  # noqa: E731
    return f"{show(statistics.median(values))} ({show(min(values))} - {show(max(values))})"


def child(size: Size, cache: str, function: str, *arguments: object) -> dict:
    """Runs a measurement, in a process of its own or, if it is to be quick, here."""
    if not size.apart:
        return getattr(measurements, function)(*arguments)
    words = [sys.executable, measurements.__file__, json.dumps([function, *arguments])]
    done = subprocess.run(words, capture_output=True, text=True, env=_environment(cache), check=False, timeout=1800)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _environment(cache: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"SLMJAX_CACHE": cache, "PYTHONPATH": path}


def throughput(cache: str, size: Size) -> None:
    """Frames/s for 1, 8 and 64 sessions; its caches are its own."""
    del cache
    print("\n| program | sessions | cores | compile, cold s | compile, warm s | frames/s, all sessions |")
    print("|---|---|---|---|---|---|")
    for name, label, frames in size.programs:
        for sessions in size.widths:
            arguments = (name, sessions, max(frames // sessions, frames // 16), size.repeat)
            with tempfile.TemporaryDirectory() as fresh:
                cold, warm = (child(size, fresh, "throughput", *arguments) for _ in range(2))
            print(
                f"| {label} | {sessions} | {warm['cores']} | {cold['compile']:.1f} | {warm['compile']:.1f} "
                f"| {spread(cold['pace'] + warm['pace'])} |",
                flush=True,
            )


def driver(cache: str, size: Size) -> None:
    """The lab's loop against the bare program."""
    print(f"\n| {size.frames:,} frames | bare loop s | lab's loop s | overhead |\n|---|---|---|---|")
    for name, sessions in size.loops:
        found = child(size, cache, "driver", name, sessions, size.frames, size.repeat)
        ratio = [100 * (lab / bare - 1) for lab, bare in zip(found["lab"], found["bare"], strict=True)]
        print(
            f"| {name}, {sessions} sessions | {spread(found['bare'], 2)} | {spread(found['lab'], 2)} "
            f"| {spread(ratio, 1)} % |",
            flush=True,
        )


def replay(cache: str, size: Size) -> None:
    """Sampling and updating in a small and in a large ring."""
    small, large = size.slots
    print(f"\n| DQN iteration | {small:,} slots us | {large:,} slots us | ratio |\n|---|---|---|---|")
    for sessions in size.widths[:2]:
        us = child(size, cache, "replay", sessions, size.slots, size.stretch, size.repeat)["us"]
        ratio = [b / a for a, b in zip(*us, strict=True)]
        print(f"| {sessions} sessions | {spread(us[0])} | {spread(us[1])} | {spread(ratio, 2)} |", flush=True)


def memory(cache: str, size: Size) -> None:
    """Peak memory of long and short runs."""
    short, long = size.frames // 10, size.frames
    print(f"\n| peak memory, {size.crowd} sessions | {short:,} frames MiB | {long:,} frames MiB | ratio |")
    print("|---|---|---|---|")
    for name in sorted({name for name, _ in size.loops}):
        peaks = [
            [child(size, cache, "memory", name, size.crowd, frames)["mib"] for _ in range(min(size.repeat, 3))]
            for frames in (short, long)
        ]
        ratio = statistics.median(peaks[1]) / statistics.median(peaks[0])
        print(f"| {name} | {spread(peaks[0])} | {spread(peaks[1])} | {ratio:.3f} |", flush=True)


def start(cache: str, size: Size) -> None:
    """From the command to its first progress line; its caches are its own."""
    print("\n| to the first progress line | cold s | warm s |\n|---|---|---|")
    for config in size.configs:
        cold, warm = [], []
        for _ in range(min(size.repeat, 3)):
            with tempfile.TemporaryDirectory() as fresh:
                cold.append(first_line(config, fresh if size.apart else cache))
                warm.append(first_line(config, fresh) if size.apart else cold[-1])
        print(f"| configs/{config}.yaml | {spread(cold, 1)} | {spread(warm, 1)} |", flush=True)


def first_line(config: str, cache: str) -> float:
    """Seconds from starting the command to the first line that shows progress."""
    with tempfile.TemporaryDirectory() as data:
        words = [sys.executable, "-m", "slmjax.run", str(ROOT / "configs" / f"{config}.yaml"), "--data", data]
        began = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=_environment(cache))
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
    arguments.add_argument("sections", nargs="*", metavar="SECTION", help=f"default: all of {', '.join(sections)}")
    arguments.add_argument("--quick", action="store_true", help="as little as shows that it works")
    options = arguments.parse_args()
    if unknown := set(options.sections) - set(sections):
        arguments.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(sections)}")
    import jax

    print(f"jax {jax.__version__}, {os.cpu_count()} cores, {sys.platform}")
    with tempfile.TemporaryDirectory() as own:
        cache = os.environ.get("SLMJAX_CACHE", own) if options.quick else own
        for name in options.sections or sections:
            sections[name](cache, QUICK if options.quick else Size())


if __name__ == "__main__":
    main()
