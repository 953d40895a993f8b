"""What a policy that acts uniformly at random scores: the zero of `strength`."""

import json
import math
from importlib import resources


def random_baseline(env_name: str) -> float | None:
    """Mean episode return of the random policy in `env_name`, or None when nobody has measured it.

    Read from `random_baselines.json` beside this file, `{env: {mean, std, episodes}}`, which
    `benchmarks/random_baselines.py` fills. A run never writes to it (SLM Lab's does), so a metric cannot depend on who
    ran what before.
    """
    text = resources.files("slmjax.analysis").joinpath("random_baselines.json").read_text(encoding="utf-8")
    mean = json.loads(text).get(env_name, {}).get("mean")
    return float(mean) if mean is not None and math.isfinite(mean) else None
