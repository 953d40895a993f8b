"""How every graph looks: palette, sizes, axes, numbers in words. Object API of matplotlib only, no global state."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from slmjax.analysis.tables import atomic
from slmjax.analysis.words import number

# Okabe and Ito's palette: told apart by the colour-blind, and in print.
BLUE, RED, ORANGE, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#E69F00", "#AA4499", "#767676", "#262626"
WIDTH, DPI = 9.0, 120  # inches, pixels per inch: 1080 pixels wide
TITLE, TEXT, TICK = 13.0, 10.5, 10.0  # font sizes in points
TALL, SMALL, HEAD, LEGEND, FOOT = 3.9, 1.15, 0.62, 0.24, 0.4  # heights in inches: panes, headline, legend, axis
COLUMNS = 4  # of a legend
GAP = "   ·   "
WIDE = 50.0  # largest over median: beyond it a linear axis shows one spike and a flat line


def new_figure(panes: int, legend: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with a tall pane, `panes - 1` small ones below it, which share the x axis, and `legend` rows above."""
    heights, head = [TALL] + [SMALL] * (panes - 1), HEAD + LEGEND * legend
    height = sum(heights) + head + FOOT
    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.07, rect=(0, 0, 1, 1 - head / height))
    fig = Figure(figsize=(WIDTH, height), dpi=DPI, layout=engine)
    axes = list(fig.subplots(panes, 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.tick_params(labelsize=TICK, color=GREY, labelcolor=INK)
        ax.tick_params(axis="x", length=3.5 if ax is axes[-1] else 0.0)
        ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.yaxis.set_major_locator(MaxNLocator(6 if ax is axes[0] else 3))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    return fig, axes


def headline(ax: Axes, title: str, summary: str) -> None:
    """Title in bold, one line that says what it came to, and below it the legend: above the pane, never on it.

    They stand in the strip that `new_figure` reserves and take no part in the layout: a long line narrows no pane.
    """
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        style: dict[str, Any] = {"fontsize": TICK, "handlelength": 1.6, "columnspacing": 1.4, "handletextpad": 0.6}
        style |= {
            "loc": "lower left",
            "bbox_to_anchor": (0, 1),
            "ncols": COLUMNS,
            "borderaxespad": 0.2,
            "borderpad": 0.2,
        }
        ax.legend(handles, labels, frameon=False, **style).set_in_layout(False)
    up = 8.0 + 17.0 * -(-len(handles) // COLUMNS)
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    for text, offset, size, fits, weight in ((summary, up, TEXT, 105, "normal"), (title, up + 18, TITLE, 80, "bold")):
        size *= min(1.0, fits / max(1, len(text)))
        line = ax.annotate(text, (0, 1), (2, offset), fontsize=size, fontweight=weight, parse_math=False, **place)
        line.set_in_layout(False)


def frame_axis(ax: Axes, last: float) -> None:
    """The shared x axis: frames from 0, written 50k, 200k, 1M."""
    ax.set_xlim(0.0, last if last > 0 else 1.0)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel("frames", fontsize=TEXT, color=INK)


def label_y(ax: Axes, text: str) -> None:
    """Name the quantity of a pane."""
    ax.set_ylabel(text, fontsize=TEXT, color=INK, labelpad=8)


def say(ax: Axes, text: str) -> None:
    """Write in a pane what there is instead of a curve."""
    ax.set_yticks([])
    ax.text(0.5, 0.75, text, transform=ax.transAxes, ha="center", va="center", fontsize=16, color=GREY)


def curve(ax: Axes, x: npt.ArrayLike, y: npt.ArrayLike, **style: Any) -> None:
    """A line through the finite points only (rows without an update are NaN); a lone point gets a dot."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(y)
    if known.any():
        lone: dict[str, Any] = {"marker": "o", "clip_on": False} if known.sum() == 1 else {}
        ax.plot(x[known], y[known], solid_joinstyle="round", **lone, **style)


def baseline(ax: Axes, random_baseline: float | None) -> None:
    """The random policy's return as a dashed line; nothing where it is unknown."""
    if random_baseline is not None:
        label = f"random policy ({number(random_baseline)})"
        ax.axhline(random_baseline, color=GREY, linewidth=1.4, linestyle=(0, (5, 3)), label=label, zorder=1.5)


def widen(ax: Axes) -> None:
    """A y range of at least 2 % of its values: a flat line is drawn flat, not as its rounding errors."""
    low, high = ax.get_ylim()
    lack = 0.02 * max(abs(low), abs(high)) - (high - low)
    if lack > 0:
        ax.set_ylim(low - lack / 2, high + lack / 2)


def log_if_wide(ax: Axes, values: npt.ArrayLike) -> None:
    """A logarithmic y axis where the values are positive and a few dwarf the rest."""
    values = np.asarray(values, np.float64)
    known = values[np.isfinite(values)]
    if known.size and known.min() > 0 and known.max() > WIDE * np.median(known):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(numticks=4))
        ax.yaxis.set_minor_formatter(NullFormatter())


def tick(value: float) -> str:
    """A number on an axis: short, 15k from ten thousand on."""
    return str(EngFormatter(sep="")(value)).replace("\N{MINUS SIGN}", "-") if abs(value) >= 1e4 else f"{value:.6g}"


def save(fig: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure atomically in the format of the path's suffix (png if it has none)."""
    with atomic(path) as temporary:
        fig.savefig(temporary, format=Path(path).suffix[1:] or "png", dpi=DPI)
