"""Measures the random policy in every registered environment. By hand:

    python benchmarks/random_baselines.py                           writes slmjax/analysis/random_baselines.json
    python benchmarks/random_baselines.py CartPole-v1 Acrobot-v1    these two alone
    python benchmarks/random_baselines.py CartPole-v1 --table FILE  into another table

Returns are those of whole episodes of uniform actions; a strength is measured against their mean.
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
    returns = np.asarray(jax.jit(program.evaluate)(session, spec.hp, 0), np.float64)
    return {
        "mean": round(float(returns.mean()), 4),
        "std": round(float(returns.std(ddof=1)), 4),
        "episodes": episodes,
    }


def main() -> None:
    """Measures, and rewrites the table with what is new."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("envs", nargs="*", metavar="ENV", help="default: every registered environment")
    arguments.add_argument("--episodes", type=int, default=1000, help="of each (default: 1000)")
    arguments.add_argument("--table", type=Path, default=TABLE, help=f"default: {TABLE.name} of the package")
    options = arguments.parse_args()
    devices.cache_programs()
    table = json.loads(options.table.read_text()) if options.table.exists() else {}
    for env in options.envs or registry.names("env"):
        table[env] = measure(env, options.episodes)
        print(env, table[env], flush=True)
        options.table.write_text(json.dumps(dict(sorted(table.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
