"""Learning curves of many sessions over common bins of frames, and what stands for all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from slmjax.analysis.statistics import Floats
from slmjax.analysis.tables import align

BINS = (200, 100, 50, 25, 12)  # tried in turn
ENOUGH = 3.0  # episodes that nineteen of twenty cells should hold: a mean over fewer jumps about
DRAWS = 400_000  # of the bootstrap, for one bin


class Curves(NamedTuple):
    """Returns of sessions over bins of frames.

    Attributes:
        edges: frames between which the bins lie, `[bins + 1]`, from 0.
        values: mean return of the episodes that ended in it, `[S, bins]`; NaN where none did.
        width: rows of a bin.
    """

    edges: Floats
    values: Floats
    width: int

    @property
    def frame(self) -> Floats:
        """The middle of each bin, `[bins]`."""
        return (self.edges[:-1] + self.edges[1:]) / 2


def learning_curves(sessions: Sequence[pd.DataFrame]) -> Curves:
    """The return of each session, in bins of whole rows that are wide enough to hold some episodes each.

    An episode counts in the bin in which it ended. The bins are the same for all sessions and end with the last row. A
    table without `mean_return` (of another tool) gives its `total_reward`, one bin a row.
    """
    if not all("mean_return" in df for df in sessions):
        frame, values = align(sessions, "total_reward")
        return Curves(_edges(frame, 1), values, 1)
    frame, value = align(sessions, "mean_return")
    if not frame.size:
        return Curves(_edges(frame, 1), value, 1)
    number = np.nan_to_num(align(sessions, "episodes")[1]) if all("episodes" in df for df in sessions) else 1.0
    number = np.where(np.isfinite(value), number, 0.0)
    total = np.nan_to_num(value) * number
    rows, width = len(frame), 1
    for bins in sorted({min(bins, rows) for bins in BINS}, reverse=True):
        width = -(-rows // bins)
        held = _sums(number, width)
        begun = np.cumsum(held, axis=1) > 0  # before its first episode has ended, no width would help
        if not begun.any() or np.quantile(held[begun], 0.05) >= ENOUGH:
            break
    held, sums = _sums(number, width), _sums(total, width)
    values = np.divide(sums, held, out=np.full_like(sums, np.nan), where=held > 0)
    return Curves(_edges(frame, width), values, width)


def middle(values: npt.ArrayLike) -> Floats:
    """Interquartile mean over sessions of each column of `[S, bins]`, without its NaN; NaN where there is nothing else.

    As `statistics.iqm`, which takes one column without gaps.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=0)  # NaN come last
    number = np.isfinite(ordered).sum(axis=0)
    rank = np.arange(len(ordered))[:, None]
    kept = (rank >= number // 4) & (rank < number - number // 4)
    sums = np.where(kept, np.nan_to_num(ordered), 0.0).sum(axis=0)
    return np.divide(sums, kept.sum(axis=0), out=np.full(len(number), np.nan), where=number > 0)


def band(values: npt.ArrayLike, level: float = 0.95, seed: int = 0) -> tuple[Floats, Floats]:
    """Ends of the percentile-bootstrap interval of `middle`, `[bins]` each; NaN with fewer than two sessions.

    Sessions are drawn with replacement in each bin by itself. What is drawn is how often each rank appears, which is
    the same for every bin with as many sessions; the interquartile mean is then a product of matrices, and thousands of
    sessions take no longer than a graph may.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=0)
    number = np.isfinite(ordered).sum(axis=0)
    low, high = np.full(ordered.shape[1], np.nan), np.full(ordered.shape[1], np.nan)
    for n in np.unique(number[number > 1]):
        at = number == n
        means = _rank_weights(int(n), np.random.default_rng(seed)) @ ordered[:n, at]
        low[at], high[at] = np.percentile(means, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return low, high


def _rank_weights(n: int, rng: np.random.Generator) -> Floats:
    """Share of each rank in the interquartile mean of a bootstrap sample of `n`: `[samples, n]`."""
    samples = int(np.clip(DRAWS // n, 200, 2000))
    drawn = rng.integers(n, size=(samples, n)) + n * np.arange(samples)[:, None]
    until = np.cumsum(np.bincount(drawn.ravel(), minlength=samples * n).reshape(samples, n), axis=1)
    kept = np.clip(until, n // 4, n - n // 4)
    return np.diff(kept, axis=1, prepend=n // 4) / (n - 2 * (n // 4))


def _sums(values: Floats, width: int) -> Floats:
    """Sums over bins of `width` rows of `[S, rows]`; the first bin may hold fewer."""
    lack = -values.shape[1] % width
    return np.pad(values, ((0, 0), (lack, 0))).reshape(len(values), -1, width).sum(axis=2)


def _edges(frame: Floats, width: int) -> Floats:
    """Where bins begin and end: rows carry the frame at which they end."""
    return np.concatenate([[0.0], frame[::-1][::width][::-1]])
