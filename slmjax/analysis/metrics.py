"""What a table of returns amounts to: SLM Lab's metrics, with every division guarded. `docs/metrics.md` says more.

R_i is `total_reward` of row i and `str_i = R_i - random_baseline` its strength. Rows whose R_i is not finite
(no episode has finished yet) count nowhere. An undefined metric is None; no metric is infinite.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slmjax.analysis.statistics import Floats, bootstrap_ci, iqm
from slmjax.analysis.tables import Failed, align, before_failure, last, last_finite

SCALARS = (
    "final_return",
    "final_eval_reward",
    "strength",
    "max_strength",
    "final_strength",
    "sample_efficiency",
    "training_efficiency",
    "stability",
    "final_return_ma",
)
WIDEST = 0.25  # of a run: a moving average over more of it says more of the beginning than of the end
NEGLIGIBLE = 1e-6  # of the largest |return| in sight: below it a strength is rounding error (returns are float32 means)


def session_metrics(
    df: pd.DataFrame, random_baseline: float | None, window: float | None = None
) -> dict[str, float | None]:
    """The scalars of one session (formulas: SLM Lab's `analysis.py`; N is the number of rows with a return).

    - `final_return`, the score: mean return of the episodes that ended in the last tenth of the budget; the greedy
      evaluation at its end, `final_eval_reward`, stands beside it;
    - `strength = 1/N sum_i str_i`, `max_strength = max_i str_i`, `final_strength = str_N`, in units of reward;
    - `sample_efficiency = sum_i (str_i / frame_i) / sum_i (1 / frame_i)`, in units of reward, and
      `training_efficiency`, the same over `opt_step`: see `efficiency`;
    - `stability` in [0, 1]: see `stability`;
    - `final_return_ma`, the last `total_reward_ma`: the statistic that SLM Lab publishes; see `window_fits`.

    Args:
        df: a session's table (`tables.session_df`).
        random_baseline: mean return of the random policy; None where it is unknown: strengths then count from 0, and
            `random_baseline` in the result is None to say so.
        window: frames that `total_reward_ma` averages; None: few enough.

    Returns:
        A float or None for every name in `SCALARS`, and `random_baseline`.
    """
    baseline = None if random_baseline is None else _or_none(random_baseline)
    rows = df[np.isfinite(df["total_reward"])]
    strength = rows["total_reward"].to_numpy(np.float64) - (baseline or 0.0)
    values = {
        "strength": strength.mean() if strength.size else np.nan,
        "max_strength": strength.max() if strength.size else np.nan,
        "final_strength": strength[-1] if strength.size else np.nan,
        "sample_efficiency": efficiency(strength, rows["frame"]),
        "training_efficiency": efficiency(strength, rows["opt_step"]),
        "stability": stability(strength, negligible(rows["total_reward"], baseline)),
        "final_return_ma": last_finite(df, "total_reward_ma") if window_fits(df, window) else np.nan,
        "final_return": last(df, "final_return"),  # a row before may be of a smaller budget's end
        "final_eval_reward": last(df, "eval_reward"),
    }
    return {name: _or_none(value) for name, value in values.items()} | {"random_baseline": baseline}


def window_fits(df: pd.DataFrame, window: float | None) -> bool:
    """Whether a moving average over `window` frames spans at most `WIDEST` of a run's: else it is no final score."""
    return window is None or not len(df) or window <= WIDEST * float(df["frame"].iloc[-1])


def trial_metrics(
    sessions: Sequence[pd.DataFrame],
    random_baseline: float | None,
    failed: Failed = (),
    window: float | None = None,
    budget: float | None = None,
) -> dict[str, Any]:
    """The scalars of a trial: what its sessions came to, how far they agree, and each session's own.

    `final_return` and `final_eval_reward`, which stand side by side, are interquartile means over the sessions, every
    other scalar is the mean, over those in which it is not None. Failed sessions are listed and never averaged in;
    `no_episode` lists those that never finished an episode, `no_final_episode` those that finished none in the last
    tenth of the budget, so that nobody takes their absence for success; `stuck` those that ended far below the rest.

    Args:
        sessions: the sessions' tables, in the order of their indices.
        random_baseline: as in `session_metrics`.
        failed: indices of the failed sessions, or a mapping from them to the frame at which they failed.
        window: frames that `total_reward_ma` averages; None: few enough.
        budget: frames of a whole run; None: as many as there are.

    Returns:
        JSON-ready (None where undefined): `num_sessions` (failed ones included), `frame` and `budget`, `failed`,
        `no_episode`, `no_final_episode`, `stuck`, `random_baseline`, every name in `SCALARS`; of `final_return` also
        `_ci95` (of the interquartile mean: a list of two, bootstrap), `_mean` and `_std` (ddof 1); of
        `final_eval_reward` also `_mean`; `consistency`; of `final_return_ma` also `_std`, `_iqm`, `_ci95` (of the
        mean), `_iqm_ci95`, and `_absent` (the reason, where its window is too long); and `sessions`, one mapping each.
    """
    baseline = None if random_baseline is None else _or_none(random_baseline)
    per_session = [_session_entry(index, df, baseline, failed, window) for index, df in enumerate(sessions)]
    sound = [entry for entry in per_session if not entry["failed"]]
    final, average = _known(sound, "final_return"), _known(sound, "final_return_ma")
    greedy = _known(sound, "final_eval_reward")
    frame = max((entry["frame"] for entry in per_session), default=0)
    return {
        "num_sessions": len(sessions),
        "frame": frame,
        "budget": frame if budget is None else int(budget),
        "failed": [entry["session"] for entry in per_session if entry["failed"]],
        "no_episode": _without(sound, "final_strength"),
        "no_final_episode": _without(sound, "final_return"),
        "stuck": stuck(sound, baseline),
        "random_baseline": baseline,
        **{name: _mean(_known(sound, name)) for name in SCALARS},
        "final_return": _iqm(final),
        "final_eval_reward": _iqm(greedy),
        "final_return_ci95": _ends(bootstrap_ci(final, iqm)),
        "final_return_mean": _mean(final),
        "final_return_std": _std(final),
        "final_eval_reward_mean": _mean(greedy),
        "consistency": _or_none(consistency([sessions[entry["session"]] for entry in sound], baseline)),
        "final_return_ma_std": _std(average),
        "final_return_ma_ci95": _ends(bootstrap_ci(average)),
        "final_return_ma_iqm": _iqm(average),
        "final_return_ma_iqm_ci95": _ends(bootstrap_ci(average, iqm)),
        "final_return_ma_absent": _too_wide([sessions[entry["session"]] for entry in sound], window),
        "sessions": per_session,
    }


def stuck(sound: Sequence[Mapping[str, Any]], random_baseline: float | None) -> list[int]:
    """Numbers of the sessions whose final return lies no higher than halfway from the random policy to the trial's.

    Args:
        sound: what `trial_metrics` says of each session that did not fail.
        random_baseline: mean return of the random policy; None where it is unknown: then nobody is called stuck.
    """
    final = _known(sound, "final_return")
    if random_baseline is None or not final.size or not float(iqm(final)) > random_baseline:
        return []
    half = (float(iqm(final)) + random_baseline) / 2
    return [entry["session"] for entry in sound if entry["final_return"] is not None and entry["final_return"] <= half]


def efficiency(strength: npt.ArrayLike, clock: npt.ArrayLike) -> float:
    """`sum_i (str_i / t_i) / sum_i (1 / t_i)`: the mean strength when early rows count more, in units of reward.

    This is what SLM Lab documents. What it computes, `sum_i (str_i / t_i) / sum_i str_i`, is the mean of 1/t weighted
    by strength: an agent that learns early and then forgets beats one that learns as early and remembers, and the
    divisor may be 0 or negative. Here no row can lower the metric by being better, the value lies between the least and
    the largest strength, and with evenly spaced rows it is the mean height of the learning curve over log t.

    Rows whose clock is not positive (no gradient step yet) are left out; NaN when none remains.
    """
    strength, clock = np.asarray(strength, np.float64), np.asarray(clock, np.float64)
    weight = np.divide(1.0, clock, out=np.zeros_like(clock), where=clock > 0)
    return float(strength @ weight / weight.sum()) if weight.any() else float("nan")


def stability(strength: npt.ArrayLike, tiny: float = 0.0) -> float:
    """`1 - sum_i max(str_i - str_{i+1}, 0) / sum_i |str_i|` over i < N, and at least 0: 1 never lost anything.

    SLM Lab's formula with |str_i| for str_i in the divisor, the same wherever no strength is negative; there it lies in
    [0, 1] by itself. Negative strengths can make SLM Lab's negative, huge or infinite.

    NaN with fewer than two rows, or when the strengths average at most `tiny` in size: there was nothing to lose.
    """
    strength = np.asarray(strength, np.float64)
    size = np.abs(strength[:-1])
    if not size.size or size.mean() <= tiny:
        return float("nan")
    lost, all_ = float(np.maximum(-np.diff(strength), 0.0).sum()), float(size.sum())
    return max(0.0, 1.0 - lost / all_)


def consistency(sessions: Sequence[pd.DataFrame], random_baseline: float | None) -> float:
    """`1 - sum_i 2 std_j(str_ij) / sum_i |mean_j(str_ij)|` over sessions j, and at least 0: 1 when they are all alike.

    SLM Lab's formula (std with ddof 1) with |mean| for mean, the same wherever the mean strength is not negative. 0
    when two standard deviations are as large as the mean, or larger. Rows in which fewer than two sessions have a
    return are left out; NaN when none remains or the means are negligible.
    """
    _, reward = align(sessions, "total_reward")
    reward = np.sort(reward[:, np.isfinite(reward).sum(axis=0) >= 2], axis=0)  # sums free of the sessions' order
    if not reward.size:
        return float("nan")
    average = np.nanmean(reward, axis=0) - (random_baseline or 0.0)
    if np.abs(average).mean() <= negligible(reward, random_baseline):
        return float("nan")
    return float(max(0.0, 1.0 - 2.0 * np.nanstd(reward, axis=0, ddof=1).sum() / np.abs(average).sum()))


def negligible(reward: npt.ArrayLike, baseline: float | None) -> float:
    """The size up to which a strength among these returns is rounding error, not a result."""
    reward = np.asarray(reward, np.float64)
    largest = np.abs(reward[np.isfinite(reward)]).max(initial=abs(baseline or 0.0))
    return float(NEGLIGIBLE * largest)


def _session_entry(
    index: int, df: pd.DataFrame, random_baseline: float | None, failed: Failed, window: float | None
) -> dict[str, Any]:
    """What `trial_metrics` says of one session."""
    failed_frame = failed[index] if isinstance(failed, Mapping) and index in failed else None
    rows = before_failure(index, df, failed)
    frame = int(df["frame"].iloc[-1]) if len(df) else 0
    head = {"session": index, "failed": index in failed, "failed_frame": failed_frame, "frame": frame}
    return head | session_metrics(rows, random_baseline, window)


def _known(entries: Sequence[Mapping[str, Any]], name: str) -> Floats:
    """The values of one scalar that are not None, sorted, so that no sum depends on the order of the sessions."""
    return np.sort([entry[name] for entry in entries if entry[name] is not None]).astype(np.float64)


def _without(entries: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    """Numbers of the sessions in which a scalar is None."""
    return [entry["session"] for entry in entries if entry[name] is None]


def _too_wide(sessions: Sequence[pd.DataFrame], window: float | None) -> str | None:
    """Why there is no `final_return_ma`, where its window is the reason."""
    last = max((int(df["frame"].iloc[-1]) for df in sessions if len(df) and not window_fits(df, window)), default=None)
    if last is None:
        return None
    return f"its window of {window:.0f} frames is more than {WIDEST:.0%} of the run's {last}"


def _mean(values: Floats) -> float | None:
    return _or_none(values.mean() if values.size else np.nan)


def _std(values: Floats) -> float | None:
    return _or_none(values.std(ddof=1) if values.size > 1 else np.nan)


def _iqm(values: Floats) -> float | None:
    return _or_none(iqm(values) if values.size else np.nan)


def _ends(interval: tuple[float, float]) -> list[float | None]:
    return [_or_none(end) for end in interval]


def _or_none(value: float | np.floating[Any] | Floats) -> float | None:
    """A float, or None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def ranked(metrics: Mapping[str, Any]) -> list[int]:
    """Numbers of the sessions by final return, the best first; then those without one, then the failed."""

    def rank(session: Mapping[str, Any]) -> tuple[bool, bool, float, int]:
        final = session["final_return"]
        return session["failed"], final is None, -(final or 0.0), session["session"]

    return [session["session"] for session in sorted(metrics["sessions"], key=rank)]
