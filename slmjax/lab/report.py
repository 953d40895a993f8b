"""From the rows of a run to tables, metrics and graphs. Drawn after the timed loop, never inside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slmjax.lab.devices import cores
from slmjax.lab.history import History
from slmjax.spec.sections import Spec

if TYPE_CHECKING:
    import pandas as pd

FEW = 8  # sessions of which each gets a graph of its own; more are shown by one picture of all, and some
MA_ROWS = 100  # the moving average spans this many times `log_frequency` frames


def session_tables(spec: Spec, history: History) -> "list[pd.DataFrame]":
    """One table a session, with the moving average filled in."""
    from slmjax.analysis.statistics import moving_average
    from slmjax.analysis.tables import session_df

    tables = []
    for i in range(history.size):
        columns = history.session(i)
        window = MA_ROWS * spec.meta.log_frequency
        columns["total_reward_ma"] = moving_average(columns["frame"], columns["total_reward"], window)
        tables.append(session_df(columns))
    return tables


class Report(NamedTuple):
    """What a trial came to: a table of each session and the file it is in, the sessions that failed and where, metrics.

    `baseline` is the return of the random policy, where it is known.
    """

    tables: "list[pd.DataFrame]"
    files: list[Path]
    failed: dict[int, int]
    baseline: float | None
    metrics: dict[str, Any]


def write_tables(spec: Spec, history: History, folder: Path, trial: int = 0) -> Report:
    """Writes the tables and metrics of a trial into a run's folder."""
    from slmjax.analysis.baselines import random_baseline
    from slmjax.analysis.metrics import trial_metrics
    from slmjax.analysis.tables import write_csv, write_json

    tables, failed = session_tables(spec, history), history.failed()
    # The table knows environments as they are registered, not as somebody's arguments changed them.
    usual = not spec.env.kwargs and spec.env.max_t is None
    baseline = random_baseline(spec.env.name) if usual else None
    metrics = trial_metrics(tables, baseline, failed, MA_ROWS * spec.meta.log_frequency, spec.env.max_frame)
    stem = f"{spec.name}_t{trial}"
    files = [folder / "info" / f"{stem}_s{i}_session_df.csv" for i in range(len(tables))]
    for table, file in zip(tables, files, strict=True):
        write_csv(table, file)
    write_json(metrics, folder / "info" / f"{stem}_trial_metrics.json")
    return Report(tables, files, failed, baseline, metrics)


def draw_graphs(spec: Spec, report: Report, folder: Path, trial: int = 0) -> Path:
    """Draws the graphs of a trial into a run's folder: the file of the first to look at.

    Raises:
        OSError: they could not be written, or drawn; says why.
    """
    try:
        return _draw(spec, report, folder, trial)
    except (ImportError, MemoryError) as error:  # little memory is left: after learning nothing is worth a traceback
        raise OSError(f"graphs could not be drawn: {str(error) or type(error).__name__}") from error


def _draw(spec: Spec, report: Report, folder: Path, trial: int) -> Path:
    from slmjax.analysis.drawing import Job, draw_all
    from slmjax.analysis.graphs import draw_trial, graph_title
    from slmjax.analysis.overview import draw_sessions
    from slmjax.analysis.style import save

    tables, files, failed, baseline, metrics = report
    stem, title = f"{spec.name}_t{trial}", graph_title(spec.name, spec.env.name, trial)
    chosen = noteworthy(metrics) if spec.meta.session_graphs == "few" else range(len(tables))

    def job(i: int) -> Job:
        path = folder / "graph" / f"{stem}_s{i}_session_graph.png"
        named = graph_title(spec.name, spec.env.name, trial, i)
        return Job(str(files[i]), str(path), named, baseline, failed.get(i))

    draw_all([job(i) for i in chosen], cores())
    if len(tables) > FEW:
        save(draw_sessions(tables, title, metrics, failed), folder / "graph" / f"{stem}_sessions_graph.png")
    path = folder / "graph" / f"{stem}_trial_graph.png"
    save(draw_trial(tables, title, failed, baseline, metrics), path)
    return path


def noteworthy(metrics: Mapping[str, Any]) -> list[int]:
    """Numbers of the sessions whose graphs are worth a look.

    Of at most `FEW` sessions all; of more the best, the median and the worst, and some of those that failed or got
    stuck.
    """
    from slmjax.analysis.metrics import ranked

    if metrics["num_sessions"] <= FEW:
        return list(range(metrics["num_sessions"]))
    known = {s["session"] for s in metrics["sessions"] if not s["failed"] and s["final_return"] is not None}
    order = ranked(metrics)
    scored = [i for i in order if i in known] or order[:1]
    return sorted({scored[0], scored[len(scored) // 2], scored[-1], *metrics["failed"][:4], *metrics["stuck"][:2]})
