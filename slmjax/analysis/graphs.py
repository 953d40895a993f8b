"""Graphs from which a person sees within a minute whether it worked.

Each is a `draw_*` function that returns a matplotlib `Figure`, and a thin function that saves it atomically.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from slmjax.analysis import style
from slmjax.analysis.style import BLUE, INK, ORANGE, RED
from slmjax.analysis.tables import Failed, align, before_failure, last_finite

# Below the return, one pane for each row: the first of its columns that holds a number, and what to call it.
PANES = (
    (("explore_var", "exploration"), ("entropy_coef", "entropy coef.")),
    (("loss", "loss"),),
    (("entropy", "entropy"),),
    (("grad_norm", "gradient norm"),),
)
NO_EPISODE = "no episode finished"


def graph_title(spec: str, env: str, trial: int, session: int | None = None) -> str:
    """`spec · environment · trial t · session s`, the headline of a graph."""
    parts = [spec, env, f"trial {trial}"] + ([] if session is None else [f"session {session}"])
    return style.GAP.join(parts)


def session_graph(
    df: pd.DataFrame, path: str | os.PathLike[str], title: str, random_baseline: float | None = None
) -> None:
    """Save `draw_session` at `path`, atomically; the suffix says the format (png if it has none)."""
    style.save(draw_session(df, title, random_baseline), path)


def trial_graph(
    sessions: Sequence[pd.DataFrame],
    path: str | os.PathLike[str],
    title: str,
    failed: Failed = (),
    random_baseline: float | None = None,
) -> None:
    """Save `draw_trial` at `path`, atomically; the suffix says the format (png if it has none)."""
    style.save(draw_trial(sessions, title, failed, random_baseline), path)


def draw_session(df: pd.DataFrame, title: str, random_baseline: float | None = None) -> Figure:
    """One session: panes over a shared frame axis, the return on top, then whatever the algorithm reports.

    Args:
        df: a session's table (`tables.session_df`); a pane whose column is absent or all NaN is absent.
        title: see `graph_title`.
        random_baseline: mean return of the random policy, a dashed line; None: no line.
    """
    panes = [next((pane for pane in choice if _has(df, pane[0])), None) for choice in PANES]
    drawn = [pane for pane in panes if pane is not None]
    fig, axes = style.new_figure(1 + len(drawn))
    _returns(axes[0], df, random_baseline)
    for ax, (column, label) in zip(axes[1:], drawn, strict=True):
        style.curve(ax, df["frame"], df[column], color=INK, linewidth=1.2)
        style.widen(ax)
        style.log_if_wide(ax, df[column])
        style.label_y(ax, label)
    style.headline(axes[0], title, _session_summary(df))
    style.frame_axis(axes[-1], float(df["frame"].max()) if len(df) else 0.0)
    fig.align_ylabels(axes)
    return fig


def draw_trial(
    sessions: Sequence[pd.DataFrame], title: str, failed: Failed = (), random_baseline: float | None = None
) -> Figure:
    """All sessions of a trial: mean of `total_reward_ma` with a band of one standard deviation (ddof 1), each session.

    Failed sessions are drawn until they fail, with a cross there, and enter neither mean nor band.

    Args:
        sessions: the sessions' tables, in the order of their indices.
        title: see `graph_title`.
        failed: indices of the failed sessions, or a mapping from them to the frame at which they failed.
        random_baseline: mean return of the random policy, a dashed line; None: no line.
    """
    fig, (ax,) = style.new_figure(1)
    sound = [df for index, df in enumerate(sessions) if index not in failed]
    broken = [before_failure(index, df, failed) for index, df in enumerate(sessions) if index in failed]
    final = np.asarray([last_finite(df, "total_reward_ma") for df in sound])
    _mean_and_band(ax, sound, style.plus_minus(final))
    _singles(ax, sound)
    style.baseline(ax, random_baseline)
    style.widen(ax)
    _failures(ax, broken, bounded=bool(np.isfinite(final).any()))
    if not any(_has(df, "total_reward_ma") for df in sessions):
        style.say(ax, NO_EPISODE)
    style.label_y(ax, "return (moving average)")
    style.headline(ax, title, _trial_summary(sound, len(broken)))
    style.frame_axis(ax, max((float(df["frame"].max()) for df in sessions if len(df)), default=0.0))
    return fig


def _returns(ax: Axes, df: pd.DataFrame, random_baseline: float | None) -> None:
    """Training return, its moving average, and greedy evaluations."""
    frame = df["frame"].to_numpy(np.float64)
    style.curve(ax, frame, df["total_reward"], color=BLUE, alpha=0.4, linewidth=1.2, label="return")
    style.curve(ax, frame, df["total_reward_ma"], color=BLUE, linewidth=2.4, label="moving average")
    if _has(df, "eval_reward"):
        seen = df[np.isfinite(df["eval_reward"])]
        spread = seen["eval_reward_std"].fillna(0.0) if _has(seen, "eval_reward_std") else None
        look: dict[str, Any] = {"markersize": 7, "markeredgecolor": "white", "elinewidth": 1.2, "clip_on": False}
        label = "greedy evaluation" + ("" if spread is None else " ± 1 std")
        ax.errorbar(seen["frame"], seen["eval_reward"], spread, fmt="o", color=ORANGE, zorder=3, label=label, **look)
    style.baseline(ax, random_baseline)
    if not _has(df, "total_reward"):
        style.say(ax, NO_EPISODE)
    style.widen(ax)
    style.label_y(ax, "return")


def _mean_and_band(ax: Axes, sessions: Sequence[pd.DataFrame], final: str) -> None:
    """Mean over sessions, the band around it, and the final value written at its end."""
    frame, curves = align(sessions, "total_reward_ma")
    number = np.isfinite(curves).sum(axis=0)
    frame, curves, number = frame[number > 0], curves[:, number > 0], number[number > 0]
    if not frame.size:
        return
    mean = np.nanmean(curves, axis=0)
    label = "one session" if len(sessions) == 1 else f"mean of {len(sessions)} sessions"
    style.curve(ax, frame, mean, color=BLUE, linewidth=2.6, zorder=3, label=label)
    if len(sessions) > 1:
        spread = np.sqrt(np.nansum((curves - mean) ** 2, axis=0) / np.maximum(number - 1, 1))
        ax.fill_between(frame, mean - spread, mean + spread, color=BLUE, alpha=0.2, linewidth=0, label="± 1 std")
    ax.plot(frame[-1], mean[-1], "o", color=BLUE, markersize=7, markeredgecolor="white", zorder=4, clip_on=False)
    look: dict[str, Any] = {"color": BLUE, "fontweight": "bold", "fontsize": style.TEXT, "va": "center"}
    ax.annotate(final, (frame[-1], mean[-1]), (9, 0), textcoords="offset points", annotation_clip=False, **look)


def _singles(ax: Axes, sessions: Sequence[pd.DataFrame]) -> None:
    """Each session, faint: the more of them, the fainter."""
    alpha = max(0.15, 0.7 / max(1, len(sessions)) ** 0.5)
    for index, df in enumerate(sessions if len(sessions) > 1 else []):
        label = "single sessions" if index == 0 else None
        style.curve(ax, df["frame"], df["total_reward_ma"], color=BLUE, alpha=alpha, linewidth=0.9, label=label)


def _failures(ax: Axes, sessions: Sequence[pd.DataFrame], bounded: bool) -> None:
    """Failed sessions until they failed, and a cross there.

    With `bounded`, one that diverged is clipped, so that it cannot flatten the others.
    """
    low, high = ax.get_ylim()
    for index, df in enumerate(sessions):
        known = df[np.isfinite(df["total_reward"]) & np.isfinite(df["total_reward_ma"])]
        frame, returns = known["frame"].to_numpy(np.float64), known["total_reward_ma"].to_numpy(np.float64)
        if bounded:
            returns = np.clip(returns, 1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low)
        end = (frame[-1], returns[-1]) if frame.size else (float(df["frame"].max()) if len(df) else 0.0, low)
        label = f"failed ({len(sessions)})" if index == 0 else None
        look: dict[str, Any] = {"markersize": 9, "markeredgewidth": 2.4, "linestyle": "none", "clip_on": False}
        ax.plot(frame, returns, color=RED, alpha=0.8, linewidth=1.2)
        ax.plot(*end, marker="x", color=RED, zorder=5, label=label, **look)


def _session_summary(df: pd.DataFrame) -> str:
    """What the session came to, in one line."""
    score, evaluation = last_finite(df, "total_reward_ma"), last_finite(df, "eval_reward")
    frames, seconds = last_finite(df, "frame"), last_finite(df, "wall_t")
    said = [
        f"final return (moving average) {style.number(score)}" if np.isfinite(score) else NO_EPISODE,
        f"greedy evaluation {style.number(evaluation)}" if np.isfinite(evaluation) else "",
        f"{EngFormatter(sep='')(frames)} frames in {style.duration(seconds)}" if np.isfinite(seconds) else "",
    ]
    return style.GAP.join(part for part in said if part)


def _trial_summary(sound: Sequence[pd.DataFrame], failures: int) -> str:
    """What the trial came to, in one line."""
    final = np.asarray([last_finite(df, "total_reward_ma") for df in sound])
    evaluation = style.plus_minus([last_finite(df, "eval_reward") for df in sound])
    total, silent = len(sound) + failures, int((~np.isfinite(final)).sum())
    spread = " (mean ± std)" if len(final) - silent > 1 else ""
    said = [
        f"final return {style.plus_minus(final)}{spread}" if len(final) > silent else "no final return",
        f"greedy evaluation {evaluation}" if evaluation else "",
        f"{total} session{'s' * (total != 1)}" + (f", {failures} failed and left out" if failures else ""),
        f"{silent} without a finished episode" if silent else "",
    ]
    return style.GAP.join(part for part in said if part)


def _has(df: pd.DataFrame, column: str) -> bool:
    """True when a column is there and holds a finite number."""
    return column in df and bool(np.isfinite(df[column]).any())
