"""slmjax and rejax on the same task with the same settings, in alternating runs. By hand:

    python -m venv /tmp/rejax && /tmp/rejax/bin/pip install "rejax==0.1.3" "gymnax<1" "jax==0.10.2" six
    python benchmarks/against_rejax.py /tmp/rejax/bin/python

With `--quick` one short run of each side, to see that it works. Each run is a process of its own; compilation is not
counted; 8 sessions (rejax: 8 vmapped seeds).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import measurements
import speed

HERE = Path(__file__).resolve().parent
SESSIONS = 8
CASES = (
    # label, algorithm, environments, slots, frames of each session
    ("PPO, 4 envs", "ppo", 4, 0, 500_000),
    ("PPO, 64 envs", "ppo", 64, 0, 500_000),
    ("DQN, 10 envs, 10k slots", "dqn", 10, 10_000, 100_000),
    ("DQN, 10 envs, 1M slots", "dqn", 10, 1_000_000, 10_000),
)
QUICK = (("DQN, 10 envs, 10k slots", "dqn", 10, 10_000, 2000),)


def ours(algorithm: str, envs: int, slots: int, frames: int) -> dict:
    """Frames/s over all sessions, and the greedy return of each, of one whole run."""
    import time

    import jax
    import numpy as np
    import specs

    from slmjax.lab.loop import compile_segment, start
    from slmjax.lab.trial import make_trial

    made = specs.ppo(envs, frames) if algorithm == "ppo" else specs.dqn(envs, frames, slots)
    if algorithm == "ppo":
        made["agent"]["algorithm"]["clip_vloss"] = True  # rejax always does
    meta = {"max_session": SESSIONS, "eval_episodes": 128, "log_frequency": max(frames // 50, 500)}
    trial = make_trial(specs.resolve(made, **meta))
    run, _ = compile_segment(trial, start(trial))
    began = time.perf_counter()
    _, run = measurements.advance(trial, run, frames)
    jax.block_until_ready(run.sessions)
    pace = SESSIONS * run.frame / (time.perf_counter() - began)
    returns = np.asarray(trial.population.evaluate(run.sessions, trial.hp, run.frame)).mean(1)
    return {"pace": pace, "returns": returns.tolist()}


def theirs(algorithm: str, envs: int, slots: int, frames: int) -> dict:
    """The same of rejax; runs under rejax's own interpreter."""
    import time

    import jax
    import jax.numpy as jnp
    import numpy as np
    from rejax import get_algo

    common = {"env": "CartPole-v1", "num_envs": envs, "gamma": 0.99, "skip_initial_evaluation": True}
    common |= {"total_timesteps": frames, "eval_freq": frames}
    settings = {
        "ppo": {
            "agent_kwargs": {"activation": "tanh", "hidden_layer_sizes": (64, 64)},
            "num_steps": 128, "num_minibatches": 4, "num_epochs": 4, "learning_rate": 2.5e-4, "max_grad_norm": 0.5,
            "gae_lambda": 0.95, "clip_eps": 0.2, "ent_coef": 0.01, "vf_coef": 0.5,
        },
        "dqn": {
            "agent_kwargs": {"activation": "relu"},
            "num_epochs": 1, "buffer_size": slots, "fill_buffer": 1000, "batch_size": 128, "learning_rate": 1e-3,
            "target_update_freq": 500, "polyak": 0.0, "eps_start": 1.0, "eps_end": 0.05, "exploration_fraction": 0.5,
            "ddqn": False,
        },
    }  # fmt: skip
    agent = get_algo(algorithm).create(**common, **settings[algorithm])
    evaluate = agent.eval_callback
    silent = agent.replace(eval_callback=lambda *_: jnp.zeros(()))
    keys = jax.random.split(jax.random.PRNGKey(0), SESSIONS)
    train = jax.jit(jax.vmap(silent.train)).lower(keys).compile()
    began = time.perf_counter()
    state, _ = jax.block_until_ready(train(keys))
    pace = int(np.asarray(state.global_step).sum()) / (time.perf_counter() - began)
    _, returns = jax.jit(jax.vmap(lambda s, k: evaluate(silent, s, k)))(state, keys)
    return {"pace": pace, "returns": np.asarray(returns).mean(-1).tolist()}


def in_process(python: str, side: str, case: list) -> dict:
    """One run of one side."""
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    words = [python, str(Path(__file__).resolve()), "--child", json.dumps([side, *case])]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=1800)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def has_rejax(python: str | None) -> bool:
    """Whether there is such an interpreter, and it finds rejax."""
    if python is None or shutil.which(python) is None:
        return False
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('rejax') is None)"
    return subprocess.run([python, "-c", look], check=False, timeout=60).returncode == 0


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("rejax_python", nargs="?", metavar="PYTHON", help="an interpreter that has rejax 0.1.3")
    arguments.add_argument("--pairs", type=int, default=3, help="alternations of each case (default: 3)")
    arguments.add_argument("--quick", action="store_true", help="one short pair")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        side, *case = json.loads(options.child)
        print(json.dumps({"ours": ours, "theirs": theirs}[side](*case)))
        return
    if not has_rejax(options.rejax_python):
        arguments.error(f"expected an interpreter that has rejax, got {options.rejax_python}; see --help")
    print("| CartPole-v1, 8 sessions | slmjax frames/s | rejax frames/s | ratio | slmjax return | rejax return |")
    print("|---|---|---|---|---|---|")
    for label, *case in QUICK if options.quick else CASES:
        pairs = [
            (in_process(sys.executable, "ours", case), in_process(options.rejax_python, "theirs", case))
            for _ in range(1 if options.quick else options.pairs)
        ]
        a, b = ([pair[i]["pace"] for pair in pairs] for i in (0, 1))
        ratio = [x / y for x, y in zip(a, b, strict=True)]
        returns = [statistics.mean(pairs[0][i]["returns"]) for i in (0, 1)]
        print(
            f"| {label} | {speed.spread(a)} | {speed.spread(b)} | {speed.spread(ratio, 2)}x "
            f"| {returns[0]:.1f} | {returns[1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
