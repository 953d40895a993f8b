"""Tables of a run: one row a log row, and writing them so that a reader never sees half a file."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmjax.analysis.statistics import Floats

CLOCKS = ("frame", "wall_t", "fps", "opt_step", "epi")
RETURNS = (
    "episodes",
    "mean_return",
    "mean_length",
    "total_reward",
    "total_reward_ma",
    "final_episodes",
    "final_return",
)
METRICS = (
    "loss",
    "lr",
    "explore_var",
    "entropy",
    "entropy_coef",
    "grad_norm",
    "clip_eps",
    "value_loss",
    "policy_loss",
)
EVALS = ("eval_reward", "eval_reward_std")
COUNTS = ("frame", "opt_step", "epi", "episodes", "final_episodes")
Failed = Collection[int] | Mapping[int, float]  # indices of failed sessions, perhaps with the frame of each failure
REQUIRED = ("frame", "opt_step", "total_reward", "total_reward_ma")


def session_df(columns: Mapping[str, Any]) -> pd.DataFrame:
    """The table of one session, one row a log row.

    Args:
        columns: arrays `[rows]` by name. Every name of `REQUIRED` must be there; any other may be absent.

    Returns:
        The clocks, the returns, the known algorithm metrics, the unknown ones alphabetically, the evaluations: in this
        order. Counts are int64, everything else float64, so that a CSV file holds the exact values.

    Raises:
        ValueError: a required column is absent, a count is not finite, or the columns are not 1-D arrays of one length.
    """
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ValueError(f"a session's table needs the columns {', '.join(missing)}")
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise ValueError(f"the columns of a session's table must be 1-D and equally long, got {shapes}")
    if bad := [name for name in COUNTS if name in arrays and not np.isfinite(arrays[name]).all()]:
        raise ValueError(f"counts must be finite, which these are not: {', '.join(bad)}")
    return pd.DataFrame({name: arrays[name].astype(_dtype(name)) for name in _ordered(arrays)})


def read_session_df(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The table that `write_csv` wrote, with the very same values and types."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    # By `float` and `int`: whether pandas' own parser is exact to the last bit depends on its version.
    columns = {name: [(int if name in COUNTS else float)(field or "nan") for field in text[name]] for name in text}
    return pd.DataFrame({name: np.asarray(values, _dtype(str(name))) for name, values in columns.items()})


def align(sessions: Sequence[pd.DataFrame], column: str) -> tuple[Floats, Floats]:
    """The rows that all sessions have: `frame [rows]` and `column [S, rows]`, NaN for what is not finite.

    Row i of every session of a trial is the same visit of the driver, so rows are paired by index, up to the shortest
    session. Where the frames differ (a suite may invent rows that are no frames) theirs is the median.
    """
    rows = min((len(df) for df in sessions), default=0)
    if rows == 0:
        return np.zeros(0), np.zeros((len(sessions), 0))
    frame = np.median([df["frame"].to_numpy(np.float64)[:rows] for df in sessions], axis=0)
    values = np.stack([df[column].to_numpy(np.float64)[:rows] for df in sessions])
    return frame, np.where(np.isfinite(values), values, np.nan)


def before_failure(index: int, df: pd.DataFrame, failed: Failed) -> pd.DataFrame:
    """The rows of a session up to its failure: all of a sound one; those with `frame <=` where the frame is known."""
    return df[df["frame"] <= failed[index]] if isinstance(failed, Mapping) and index in failed else df


def padded(sessions: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Tables as long as the longest: its frames where one ends before, and NaN in the other columns."""
    longest = max(sessions, key=len, default=pd.DataFrame())
    frame = longest.get("frame")
    return [df.reindex(longest.index).assign(frame=frame) if len(df) < len(longest) else df for df in sessions]


def last_frame(sessions: Sequence[pd.DataFrame], failed: Failed = ()) -> float:
    """The last frame of any row, or at which a session failed; 0 where there is neither."""
    ends = [float(df["frame"].max()) for df in sessions if len(df)]
    return max([*ends, *(failed.values() if isinstance(failed, Mapping) else ())], default=0.0)


def last(df: pd.DataFrame, column: str) -> float:
    """The value in the last row; NaN where the column is absent or there is no row."""
    return float(df[column].iloc[-1]) if column in df and len(df) else float("nan")


def last_finite(df: pd.DataFrame, column: str) -> float:
    """The last finite value of a column; NaN when it is absent or has none."""
    values = df[column].to_numpy(np.float64) if column in df else np.zeros(0)
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else float("nan")


def write_csv(df: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table atomically; floats keep every digit, NaN is an empty field."""
    with atomic(path) as temporary:
        df.to_csv(temporary, index=False)


def write_json(data: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a mapping atomically as strict JSON: see `jsonable`."""
    text = json.dumps(jsonable(data), indent=2, allow_nan=False, ensure_ascii=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types: NumPy becomes Python, NaN and infinities (JSON has neither) None, sets sorted lists.

    Raises:
        TypeError: `value` holds something that JSON cannot say.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"JSON has no {type(value).__name__}: {value!r}")


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `path` (made if need be) that replaces `path` when the block succeeds.

    When the block raises, `path` is as it was and the temporary file is gone. The file gets the usual permissions,
    which `tempfile` would not give it.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def _ordered(names: Mapping[str, Any]) -> list[str]:
    """Column names in the order in which a table shows them."""
    known = CLOCKS + RETURNS + METRICS
    unknown = sorted(name for name in names if name not in known and name not in EVALS)
    return [*(n for n in known if n in names), *unknown, *(n for n in EVALS if n in names)]


def _dtype(name: str) -> type:
    return np.int64 if name in COUNTS else np.float64
