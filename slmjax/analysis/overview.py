"""All sessions of a trial in one picture: a row each, the best on top."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from slmjax.analysis import style
from slmjax.analysis.curves import learning_curves
from slmjax.analysis.metrics import ranked
from slmjax.analysis.style import GREY, INK, PURPLE, RED
from slmjax.analysis.summary import summary
from slmjax.analysis.tables import Failed, last_frame, padded

READABLE = 40  # sessions whose numbers fit beside their rows; of more some are named
NAMED = 12  # of those that are named in any case
EMPTY = "#E6E6E6"  # where there is no return: no episode ended, or the session had failed


def draw_sessions(
    sessions: Sequence[pd.DataFrame], title: str, metrics: Mapping[str, Any], failed: Failed = ()
) -> Figure:
    """A row for each session, sorted by its final return, failed ones last; colours are returns over frames.

    Args:
        sessions: the sessions' tables, in the order of their indices.
        title: see `graphs.graph_title`.
        metrics: what `metrics.trial_metrics` makes of them.
        failed: indices of the failed sessions, or a mapping from them to the frame at which they failed.
    """
    fig, (ax,) = style.new_figure(1, legend=1)
    curves = learning_curves(padded(sessions))
    order = ranked(metrics)
    values = curves.values[order]
    place = {index: row for row, index in enumerate(order)}
    for n, index in enumerate(metrics["failed"]):
        if isinstance(failed, Mapping):
            values[place[index], curves.frame > failed[index]] = np.nan
            look: dict[str, Any] = {"markersize": 6, "markeredgewidth": 1.8, "clip_on": False, "linestyle": "none"}
            look["label"] = None if n else f"failed ({len(metrics['failed'])})"
            ax.plot(failed[index], place[index], marker="x", color=RED, **look)
    sound = values[: len(order) - len(metrics["failed"])]
    if np.isfinite(sound).any():
        limits: dict[str, Any] = {
            "vmin": np.nanmin(sound),
            "vmax": np.nanmax(sound),
        }  # one that diverged decides no colour
        image = ax.pcolormesh(
            curves.edges, np.arange(len(order) + 1) - 0.5, values, cmap="viridis", **limits, rasterized=True
        )
        bar = fig.colorbar(image, ax=ax, pad=0.02, aspect=30)
        bar.set_label("return", fontsize=style.TEXT, color=INK)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=style.TICK, color=GREY, labelcolor=INK)
    ax.set_facecolor(EMPTY)
    if not np.isfinite(values).all():
        ax.fill_between([], [], color=EMPTY, label="no return")
    ax.grid(visible=False)
    ax.set_ylim(len(order) - 0.5, -0.5)
    named = order if len(order) <= READABLE else _some(order, metrics)
    ax.set_yticks([place[index] for index in named], [f"#{index}" for index in named])
    for label, index in zip(ax.get_yticklabels(), named, strict=True):
        label.set_fontsize(min(style.TICK, 280 / len(named)) if len(order) <= READABLE else style.TICK - 1)
        label.set_color(RED if index in metrics["failed"] else PURPLE if index in metrics["stuck"] else INK)
    style.label_y(ax, "sessions, the best on top")
    style.headline(ax, title, summary(metrics, style.GAP))
    style.frame_axis(ax, last_frame(sessions, failed) or 1.0)
    return fig


def _some(order: Sequence[int], metrics: Mapping[str, Any]) -> list[int]:
    """Best, worst, odd ones and what lies evenly between, as far as there is room for a number beside a row."""
    odd = [row for row, index in enumerate(order) if index in metrics["failed"] or index in metrics["stuck"]]
    taken: list[int] = []
    for row in [0, len(order) - 1, *odd, *np.linspace(0, len(order) - 1, NAMED).round().astype(int)]:
        if all(abs(row - other) >= len(order) / (2 * NAMED) for other in taken):
            taken.append(int(row))
    return [order[row] for row in sorted(taken)]
