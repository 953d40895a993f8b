"""Graphs from which a person sees within a minute whether it worked.

Each `draw_*` function returns a matplotlib `Figure`, which `style.save` writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter

from slmjax.analysis import style
from slmjax.analysis.curves import band, learning_curves, middle
from slmjax.analysis.metrics import trial_metrics
from slmjax.analysis.statistics import Floats
from slmjax.analysis.style import BLUE, GREY, INK, ORANGE, PURPLE, RED
from slmjax.analysis.summary import summary
from slmjax.analysis.tables import Failed, align, before_failure, last, last_finite, last_frame
from slmjax.analysis.words import duration, number

# Below the return, one pane for each row: the first of its columns that holds a number, and what to call it.
PANES = (
    (("explore_var", "exploration"), ("entropy_coef", "entropy coef.")),
    (("loss", "loss"),),
    (("entropy", "entropy"),),
    (("grad_norm", "gradient norm"),),
)
NO_EPISODE, NO_ROW = "no episode finished", "failed before a row was complete"
MANY = 32  # sessions from which on their lines would be one area
END, AWAY, ROOM = "end of a line", 9.0, 40.0  # labels there, how far from it in points, and the width of one
NUMBERED = 8  # failed or stuck sessions whose numbers are written in a graph
DOTS: dict[str, Any] = {"markersize": 6.5, "markeredgecolor": "white", "zorder": 3.8, "clip_on": False}


def graph_title(spec: str, env: str, trial: int, session: int | None = None) -> str:
    """`spec · environment · trial t · session s`, the headline of a graph."""
    parts = [spec, env, f"trial {trial}"] + ([] if session is None else [f"session {session}"])
    return style.GAP.join(parts)


def draw_session(
    df: pd.DataFrame, title: str, random_baseline: float | None = None, failed: float | None = None
) -> Figure:
    """One session: panes over a shared frame axis, the return on top, then whatever the algorithm reports.

    Args:
        df: a session's table (`tables.session_df`); a pane whose column is absent or all NaN is absent.
        title: see `graph_title`.
        random_baseline: mean return of the random policy, a dashed line; None: no line.
        failed: the frame by which it failed; None: it did not.
    """
    panes = [next((pane for pane in choice if _has(df, pane[0])), None) for choice in PANES]
    drawn = [pane for pane in panes if pane is not None]
    fig, axes = style.new_figure(1 + len(drawn))
    _returns(axes[0], df, random_baseline)
    if failed is not None:
        axes[0].axvline(failed, color=RED, linewidth=2.0, clip_on=False, label="failed")
    if not _has(df, "total_reward"):
        style.say(axes[0], NO_EPISODE if len(df) else NO_ROW)
    for ax, (column, label) in zip(axes[1:], drawn, strict=True):
        style.curve(ax, df["frame"], df[column], color=INK, linewidth=1.2)
        style.widen(ax)
        style.log_if_wide(ax, df[column])
        style.label_y(ax, label)
    style.headline(axes[0], title, _session_summary(df, failed))
    style.frame_axis(axes[-1], last_frame([df], {} if failed is None else {0: failed}))
    fig.align_ylabels(axes)
    return fig


def draw_trial(
    sessions: Sequence[pd.DataFrame],
    title: str,
    failed: Failed = (),
    random_baseline: float | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Figure:
    """All sessions of a trial: the interquartile mean of their returns, its 95 % bootstrap interval, and each session.

    From `MANY` sessions on their lines would be one area: the range that all of them span and that of the middle half
    stand for them. Failed sessions are drawn until they fail, with a cross there, and enter neither mean nor band.

    Args:
        sessions: the sessions' tables, in the order of their indices.
        title: see `graph_title`.
        failed: indices of the failed sessions, or a mapping from them to the frame at which they failed.
        random_baseline: mean return of the random policy, a dashed line; None: no line.
        metrics: what `metrics.trial_metrics` makes of the same; None: it is asked.
    """
    if metrics is None:
        metrics = trial_metrics(sessions, random_baseline, failed)
    fig, (ax,) = style.new_figure(1)
    sound = [index for index in range(len(sessions)) if index not in failed]
    curves = learning_curves([sessions[index] for index in sound])
    known = np.isfinite(curves.values).any(axis=0)
    frame, values = curves.frame[known], curves.values[:, known]
    if frame.size:
        _everyone(ax, frame, values)
        _middle(ax, frame, values)
        odd = {sound.index(index): index for index in metrics["stuck"]}
        _stuck(ax, frame, values, odd)
    _evaluations(ax, [sessions[index] for index in sound])
    style.baseline(ax, random_baseline)
    style.widen(ax)
    _failures(ax, sessions, failed, bool(frame.size))
    if not any(_has(df, "total_reward") for df in sessions):
        style.say(ax, NO_EPISODE if any(len(df) for df in sessions) else NO_ROW)
    style.label_y(ax, "return")
    style.headline(ax, title, summary(metrics, style.GAP))
    style.frame_axis(ax, last_frame(sessions, failed))
    _part(ax)
    return fig


def _returns(ax: Axes, df: pd.DataFrame, random_baseline: float | None) -> None:
    """Return of the episodes that ended, over bins of rows where rows hold few, and greedy evaluations."""
    curves = learning_curves([df])
    if curves.width > 1:
        style.curve(ax, df["frame"], df["mean_return"], color=BLUE, alpha=0.3, linewidth=0.9, label="return")
    label = "return" if curves.width == 1 else f"return over {curves.width} rows"
    style.curve(ax, curves.frame, curves.values[0], color=BLUE, linewidth=2.0, label=label)
    if _has(df, "eval_reward"):
        seen = df[np.isfinite(df["eval_reward"])]
        spread = seen["eval_reward_std"].fillna(0.0) if _has(seen, "eval_reward_std") else None
        label = "greedy evaluation" + ("" if spread is None else " ± 1 std")
        ax.errorbar(
            seen["frame"], seen["eval_reward"], spread, fmt="D", color=ORANGE, elinewidth=1.2, label=label, **DOTS
        )
    style.baseline(ax, random_baseline)
    style.widen(ax)
    style.label_y(ax, "return")


def _everyone(ax: Axes, frame: Floats, values: Floats) -> None:
    """Each session, faint; of many what they span and where the middle half of them is."""
    if len(values) >= MANY:
        low, quarter, three, high = np.nanpercentile(values, [0, 25, 75, 100], axis=0)
        ax.fill_between(frame, low, high, color=GREY, alpha=0.15, linewidth=0, label="all sessions")
        ax.fill_between(frame, quarter, three, color=GREY, alpha=0.35, linewidth=0, label="middle half")
        return
    for index, one in enumerate(values if len(values) > 1 else []):
        label = "single sessions" if index == 0 else None
        style.curve(ax, frame, one, color=BLUE, alpha=max(0.2, 0.7 / len(values) ** 0.5), linewidth=0.9, label=label)


def _middle(ax: Axes, frame: Floats, values: Floats) -> None:
    """Interquartile mean over sessions, its interval, and its last value written at its end."""
    center = middle(values)
    label = "one session" if len(values) == 1 else f"IQM of {len(values)} sessions"
    style.curve(ax, frame, center, color=BLUE, linewidth=2.6, zorder=3, label=label)
    low, high = band(values)
    if np.isfinite(low).any():
        ax.fill_between(frame, low, high, color=BLUE, alpha=0.25, linewidth=0, label="95 % interval")
    ax.plot(frame[-1], center[-1], "o", color=BLUE, markersize=6, markeredgecolor="white", zorder=4, clip_on=False)
    _write(ax, frame[-1], center[-1], number(center[-1]), BLUE)


def _stuck(ax: Axes, frame: Floats, values: Floats, odd: Mapping[int, int]) -> None:
    """Sessions that ended far below the others, with their numbers; of many the first few."""
    for place, (row, index) in enumerate(list(odd.items())[:NUMBERED]):
        known = np.isfinite(values[row])
        if known.any():
            label = f"stuck ({len(odd)})" if place == 0 else None
            style.curve(ax, frame, values[row], color=PURPLE, linewidth=1.6, zorder=3.5, label=label)
            _write(ax, frame[known][-1], values[row][known][-1], f"#{index}", PURPLE)


def _evaluations(ax: Axes, sessions: Sequence[pd.DataFrame]) -> None:
    """Greedy evaluations, interquartile means over sessions, as the line that they stand beside."""
    if not sessions or not all(_has(df, "eval_reward") for df in sessions):
        return
    frame, values = align(sessions, "eval_reward")
    seen = np.isfinite(values).any(axis=0)
    ax.plot(frame[seen], middle(values[:, seen]), "D", color=ORANGE, label="greedy evaluation", **DOTS)


def _failures(ax: Axes, sessions: Sequence[pd.DataFrame], failed: Failed, bounded: bool) -> None:
    """Failed sessions until they failed, a cross where that was noticed, and their numbers.

    With `bounded`, one that diverged is clipped, so that it cannot flatten the others.
    """
    low, high = ax.get_ylim()
    lost = [index for index in range(len(sessions)) if index in failed]
    for place, index in enumerate(lost):
        df = before_failure(index, sessions[index], failed)
        curves = learning_curves([df])
        known = np.isfinite(curves.values[0])
        frame, returns = curves.frame[known], curves.values[0][known]
        if bounded:
            returns = np.clip(returns, 1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low)
        noticed = failed[index] if isinstance(failed, Mapping) else last_frame([df])
        end = (noticed, returns[-1] if frame.size else low)
        label = f"failed ({len(lost)})" if place == 0 else None
        look: dict[str, Any] = {"markersize": 9, "markeredgewidth": 2.4, "linestyle": "none", "clip_on": False}
        ax.plot([*frame, end[0]], [*returns, end[1]], color=RED, alpha=0.8, linewidth=1.2)
        ax.plot(*end, marker="x", color=RED, zorder=5, label=label, **look)
        if place < NUMBERED:
            _write(ax, *end, f"#{index}", RED)


def _write(ax: Axes, x: float, y: float, text: str, color: str) -> None:
    """A label to the right of a point."""
    look: dict[str, Any] = {"color": color, "fontweight": "bold", "fontsize": style.TEXT, "va": "center"}
    ax.annotate(text, (x, y), (AWAY, 0), textcoords="offset points", annotation_clip=False, gid=END, **look)


def _part(ax: Axes) -> None:
    """Moves labels that would cover each other apart, within the axis if it is long enough; the first one stays."""
    labels = [text for text in ax.texts if isinstance(text, Annotation) and text.get_gid() == END]
    if len(labels) < 2:
        return
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout moves what was not drawn yet
    points = 72.0 / figure.dpi
    across, up = ax.transData.transform([label.xy for label in labels]).T * points
    beside = [i for i in range(1, len(labels)) if abs(across[i] - across[0]) < ROOM]
    gap, ends = 1.1 * style.TEXT, ax.transAxes.transform([(0, 1), (0, 0)])[:, 1] * points
    for way, end in zip((1.0, -1.0), ends, strict=True):
        side = [(way * up[i], i) for i in beside if (up[i] >= up[0]) == (way > 0)]
        outwards = [i for _, i in sorted(side)]
        edge, places = way * end + gap, {}
        for i in reversed(outwards):  # from the end of the axis inwards
            edge = places[i] = min(way * up[i], edge - gap)
        edge = way * up[0]
        for i in outwards:
            edge = max(places[i], edge + gap)
            labels[i].set_position((AWAY, way * edge - up[i]))


def _session_summary(df: pd.DataFrame, failed: float | None) -> str:
    """What the session came to, in one line."""
    score, evaluation = last(df, "final_return"), last(df, "eval_reward")
    frames, seconds = last_finite(df, "frame"), last_finite(df, "wall_t")
    silence = "no final return" if _has(df, "total_reward") else NO_EPISODE
    nothing = silence if failed is None else f"FAILED by frame {failed:.0f}"
    said = [
        f"final return {number(score)}" if np.isfinite(score) and failed is None else nothing,
        f"greedy evaluation {number(evaluation)}" if np.isfinite(evaluation) else "",
        f"{EngFormatter(sep='')(frames)} frames in {duration(seconds)}" if np.isfinite(seconds) else "",
    ]
    return style.GAP.join(part for part in said if part)


def _has(df: pd.DataFrame, column: str) -> bool:
    """True when a column is there and holds a finite number."""
    return column in df and bool(np.isfinite(df[column]).any())
