"""Statistics over few sessions: interquartile mean and bootstrap confidence intervals (Agarwal et al. 2021)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def mean(values: npt.ArrayLike) -> Floats:
    """Mean over the last axis."""
    return np.asarray(np.mean(np.asarray(values, np.float64), axis=-1))


def iqm(values: npt.ArrayLike) -> Floats:
    """Interquartile mean over the last axis: the mean without the `floor(n / 4)` smallest and largest values.

    As `scipy.stats.trim_mean(values, 0.25)`, which rliable uses: more robust than the mean, less wasteful than the
    median. With fewer than 4 values it is the mean.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def bootstrap_ci(
    scores: npt.ArrayLike,
    statistic: Callable[[Floats], Floats] = mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Stratified percentile-bootstrap confidence interval of a statistic over sessions.

    Sessions are drawn with replacement, in each task (stratum) independently of the others, as rliable does.

    Args:
        scores: `[S]`, or `[S, K]` for K tasks, finite.
        statistic: over the last axis, `[..., n] -> [...]`; it sees the scores of all tasks in one row.
        level: coverage that is aimed at.
        resamples: bootstrap samples.
        seed: of the generator; scores are sorted first, so the interval depends neither on chance nor on their order.

    Returns:
        Lower and upper end; NaN, NaN for fewer than two sessions, whose spread nothing is known about. With fewer than
        about five, the interval covers less than `level` (it cannot reach beyond the scores that were seen).
    """
    table = np.asarray(scores, np.float64)
    if len(table) < 2:
        return float("nan"), float("nan")
    table = np.sort(table.reshape(len(table), -1), axis=0)
    sessions, tasks = table.shape
    drawn = np.random.default_rng(seed).integers(sessions, size=(resamples, sessions, tasks))
    samples = np.take_along_axis(table[None], drawn, axis=1).reshape(resamples, -1)
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(statistic(samples), [tail, 100.0 - tail])
    return float(low), float(high)
