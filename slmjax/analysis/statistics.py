"""Statistics: moving averages, interquartile means and bootstrap confidence intervals (Agarwal et al. 2021)."""

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


def moving_average(frame: npt.ArrayLike, total_reward: npt.ArrayLike, window_frames: float) -> Floats:
    """Mean of the finite `total_reward` over the rows `j <= i` with `frame[j] > frame[i] - window_frames`.

    SLM Lab averages 100 rows; a window in frames is the same where rows are `log_frequency` apart
    (`window_frames = 100 * log_frequency`) and stays so where they are not. O(rows log rows), no Python loop over rows.

    Args:
        frame: `[rows]` (shared) or `[S, rows]`, never decreasing along the rows.
        total_reward: `[rows]` or `[S, rows]`; what is not finite is left out.
        window_frames: width of the window in frames, positive.

    Returns:
        An array of the shape of `total_reward`; NaN where the window holds no finite value.

    Raises:
        ValueError: the window is not positive, or the frames decrease.
    """
    clock, reward = np.asarray(frame, np.float64), np.asarray(total_reward, np.float64)
    if not window_frames > 0:
        raise ValueError(f"the window must be positive, got {window_frames}")
    if (np.diff(clock, axis=-1) < 0).any():
        raise ValueError("frames must not decrease from row to row")
    known = np.isfinite(reward)
    # Prefix sums of what is left after a constant is taken out: a large offset costs no digits, a flat line stays flat.
    offset = np.where(known, reward, 0.0).sum(-1, keepdims=True) / np.maximum(known.sum(-1, keepdims=True), 1)
    sums = _prefix(np.where(known, reward - offset, 0.0))
    counts = _prefix(known.astype(np.float64))
    first = [np.searchsorted(lane, lane - window_frames, side="right") for lane in np.atleast_2d(clock)]
    start = np.broadcast_to(np.reshape(first, clock.shape), reward.shape)
    total = sums[..., 1:] - np.take_along_axis(sums, start, axis=-1)
    number = counts[..., 1:] - np.take_along_axis(counts, start, axis=-1)
    return np.where(number > 0, offset + total / np.maximum(number, 1.0), np.nan)


def _prefix(values: Floats) -> Floats:
    """Sums of the first 0, 1, ..., n values along the last axis."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
