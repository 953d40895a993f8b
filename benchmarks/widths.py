"""Sessions 0 to 2 of runs of several sizes, on one device and on two: every leaf and every column, bit by bit.

    python benchmarks/widths.py                                  all cases, 20k frames; hours on two cores
    python benchmarks/widths.py ppo4 dqn10 --sizes 3 16 --frames 5000

Where nothing differs, what a session learns hangs on its spec alone.
"""

import argparse
import time

import jax
import numpy as np
from against_commit import cases

USUAL = ("ppo4", "a2c", "reinforce", "dqn10", "ddqn_per", "sac", "ppo_recurrent", "conv")


def first_three(spec: dict, sessions: int, count: int, frames: int) -> dict[str, np.ndarray]:
    """Leaves and columns of sessions 0 to 2 after so many frames, on so many devices."""
    import slmjax
    from slmjax.lab.trial import make_trial, normalises
    from slmjax.population import make_population

    meta = {"max_session": sessions, "log_frequency": spec.get("meta", {}).get("log_frequency", 500)}
    trial = make_trial(slmjax.load_spec({**spec, "meta": meta}))
    lanes = trial.population.lanes
    devices = jax.devices()[:count]
    population = make_population(trial.program, sessions, devices, lanes, 2, normalises(trial.spec))
    keys, hp = population.place(trial.population.gather(trial.keys)), population.repeat(trial.spec.hp)
    step = trial.program.iteration_frames
    stop = max(1, round(frames / step)) * step
    state, rows = population.segment(population.init(keys, hp), hp, 0, stop)
    found = {name: x[:3] for name, x in rows.items()}
    leaves = jax.tree_util.tree_leaves_with_path(state[0])
    for (path, _), parts in zip(leaves, population.parts(state), strict=True):
        found[jax.tree_util.keystr(path)] = np.concatenate([*parts])[:3]
    return found


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("cases", nargs="*", default=USUAL, metavar="CASE")
    arguments.add_argument("--sizes", nargs="+", type=int, default=[3, 16, 64, 200], help="sessions of each run")
    arguments.add_argument("--frames", type=int, default=20_000, help="of each session (default: 20,000)")
    options = arguments.parse_args()
    from slmjax.lab import devices

    jax.config.update("jax_num_cpu_devices", 2)
    devices.cache_programs()
    if unknown := [case for case in options.cases if case not in cases()]:
        arguments.error(f"unknown case {unknown[0]!r}; known: {', '.join(cases())}")
    print("| case | sessions x devices | leaves and columns | differ | seconds |\n|---|---|---|---|---|")
    for case in options.cases:
        began, reference, odd = time.monotonic(), None, []
        runs = [(size, count) for size in options.sizes for count in range(1, min(jax.device_count(), 2) + 1)]
        for size, count in runs:
            found = first_three(cases()[case], size, count, options.frames)
            reference = reference or found
            odd += [
                f"{name} ({size} x {count})" for name, x in found.items() if x.tobytes() != reference[name].tobytes()
            ]
        said = ", ".join(f"{size} x {count}" for size, count in runs)
        seconds = time.monotonic() - began
        print(
            f"| {case} | {said} | {len(reference or ())} | {', '.join(odd[:5]) or 'none'} | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
