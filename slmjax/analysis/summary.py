"""What a trial came to, in a line: printed after a run and written above its graph."""

from collections.abc import Mapping, Sequence
from typing import Any

from slmjax.analysis.words import number, plural

NAMED = 4  # sessions that are called by their numbers; of more there is only a count
ODD = (("failed", "failed"), ("no_episode", "silent"), ("no_final_episode", "silent at the end"), ("stuck", "stuck"))


def summary(metrics: Mapping[str, Any], gap: str = ", ") -> str:
    """What was earned at the end of training, with its interval, what is played greedily, which sessions are odd."""
    low, high = metrics["final_return_ci95"]
    interval = "" if low is None else f" [{number(low)}, {number(high)}]"
    late = set(metrics["no_final_episode"]) - set(metrics["no_episode"])
    late = late if metrics["final_return"] is not None else set()  # else all of them, for one reason
    named = {**metrics, "no_final_episode": sorted(late)}
    odd = [f"{len(named[key])} {word}{numbers(named[key])}" for key, word in ODD if named[key]]
    count = metrics["num_sessions"]
    return gap.join(
        [
            f"final return {_show(metrics, 'final_return')}{interval}{_reason(metrics)}",
            f"greedy evaluation {_show(metrics, 'final_eval_reward')}",
            plural(count, "session") + (f" ({', '.join(odd)})" if odd else ""),
        ]
    )


def numbers(sessions: Sequence[int]) -> str:
    """`: #3, #7`; of many the first few."""
    more = f" and {len(sessions) - NAMED} more" if len(sessions) > NAMED else ""
    return ": " + ", ".join(f"#{i}" for i in sessions[:NAMED]) + more


def _show(metrics: Mapping[str, Any], name: str) -> str:
    return "none" if metrics.get(name) is None else number(metrics[name])


def _reason(metrics: Mapping[str, Any]) -> str:
    """Why there is no return to show, where there is none."""
    if metrics["final_return"] is not None:
        return ""
    if len(metrics["failed"]) == metrics["num_sessions"]:
        return " (every session failed)"
    if len(metrics["failed"]) + len(metrics["no_episode"]) == metrics["num_sessions"]:
        return " (no episode ended)"
    if metrics["frame"] < metrics["budget"]:
        return f" (stopped at frame {metrics['frame']} of {metrics['budget']})"
    return " (no episode ended in the last tenth of the budget)"
