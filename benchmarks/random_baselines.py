"""Measures the random policy in every registered environment and writes slmjax/analysis/random_baselines.json.

Run by hand, from the root of a checkout: python benchmarks/random_baselines.py [ENV ...]
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

import slmjax
from slmjax import registry
from slmjax.lab import devices

TABLE = Path(__file__).resolve().parent.parent / "slmjax" / "analysis" / "random_baselines.json"


def measure(env: str, episodes: int) -> dict[str, float | int]:
    """Mean and standard deviation of the return of `episodes` random episodes, all stepped together."""
    spec = slmjax.load_spec(
        {
            "name": "random",
            "agent": {"algorithm": {"name": "Random"}},
            "env": {"name": env, "max_frame": 1},
            "meta": {"eval_episodes": episodes},
        }
    )
    program = slmjax.make_session(spec)
    session = jax.jit(program.init)(slmjax.session_key(0, 0, 0), spec.hp)
    returns = np.asarray(jax.jit(program.evaluate, static_argnums=3)(session, spec.hp, 0, False), np.float64)
    return {
        "mean": round(float(returns.mean()), 4),
        "std": round(float(returns.std(ddof=1)), 4),
        "episodes": episodes,
    }


def main() -> None:
    """Measures, and rewrites the table with what is new."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("envs", nargs="*", help="default: every registered environment")
    arguments.add_argument("--episodes", type=int, default=1000)
    options = arguments.parse_args()
    devices.cache_programs()
    table = json.loads(TABLE.read_text())
    for env in options.envs or registry.names("env"):
        table[env] = measure(env, options.episodes)
        print(env, table[env], flush=True)
        TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
