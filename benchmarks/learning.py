"""What each config learns, as tables. Run by hand:

python benchmarks/learning.py                       # every entry below, one after the other; hours on two cores
python benchmarks/learning.py ppo_cartpole a2c_cartpole
python benchmarks/learning.py --tables              # write the tables of the docs again, from docs/results.json
python benchmarks/learning.py ppo_cartpole --set env.max_frame=2000 --results FILE        # a short one, kept elsewhere

Each entry is `python -m slmjax.run configs/NAME.yaml` with the changes named there. What it reached is kept in
docs/results.json, and from there goes into docs/benchmarks.md and the pages of the algorithms.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results.json"


class Entry(NamedTuple):
    """A config and what is asked of it.

    Attributes:
        config: file under configs/.
        bar: least mean `final_return_ma`; None: none is set.
        published: SLM Lab's score in the same task; None: there is none.
        sets: changes of `--set`.
        greedy: (least greedy return, sessions that must reach it), where that is what is asked.
        curve: whether its mean returns over frames are kept, for `draw`.
    """

    config: str
    bar: float | None = None
    published: float | None = None
    sets: tuple[str, ...] = ()
    greedy: tuple[float, int] | None = None
    curve: bool = False


FIGURES = ("final_return_ma", "std", "greedy")  # of a result; None where the run is too short to have them
LONG, BREAKOUT = ("env.kwargs.memory_length=20",), ("env=Breakout-MinAtar",)
FRESH = ("meta.seed=1000", "meta.max_session=64")  # seeds that nobody tuned on
FRESH_FEW = ("meta.seed=1000", "meta.max_session=32")  # where sessions take long
FEEDFORWARD = ("agent.net={type: MLPNet, hid_layers: [64, 64], clip_grad_val: 0.5}",)
ENTRIES = {
    "reinforce_cartpole": Entry("reinforce_cartpole", 480, 483.3, FRESH),
    "crossentropy_cartpole": Entry("crossentropy_cartpole"),
    "sarsa_cartpole": Entry("sarsa_cartpole", 440, 431.0),
    "vanilla_dqn_cartpole": Entry("vanilla_dqn_cartpole"),
    "dqn_cartpole": Entry("dqn_cartpole", 450, 239.9, sets=FRESH_FEW),
    "ddqn_cartpole": Entry("ddqn_cartpole", sets=FRESH_FEW),
    "ddqn_per_cartpole": Entry("ddqn_per_cartpole", 470, 451.5, sets=FRESH_FEW),
    "c51_cartpole": Entry("c51_cartpole", sets=FRESH_FEW),
    "qrdqn_cartpole": Entry("qrdqn_cartpole", sets=FRESH_FEW),
    "munchausen_cartpole": Entry("munchausen_cartpole", sets=FRESH_FEW),
    "rainbow_cartpole": Entry("rainbow_cartpole", sets=FRESH_FEW),
    "a2c_cartpole": Entry("a2c_cartpole", 495, 496.7),
    "sil_cartpole": Entry("sil_cartpole"),
    "ppo_cartpole": Entry("ppo_cartpole", 497, 498.9),
    "pposil_cartpole": Entry("pposil_cartpole"),
    "sac_cartpole": Entry("sac_cartpole", 450, 406.1),
    "crossq_cartpole": Entry("crossq_cartpole", 400, 334.6),
    "pqn_cartpole": Entry("pqn_cartpole", 490),
    "dqn_acrobot": Entry("dqn_acrobot", -90, -94.2, sets=FRESH_FEW),
    "ddqn_per_acrobot": Entry("ddqn_per_acrobot", -84, -83.9, sets=FRESH_FEW),
    "a2c_acrobot": Entry("a2c_acrobot", -84, -84.0, FRESH),
    "ppo_acrobot": Entry("ppo_acrobot", -82, -81.3),
    "pqn_acrobot": Entry("pqn_acrobot"),
    "sac_acrobot": Entry("sac_acrobot", -90, -92.6, FRESH_FEW),
    "ppo_pendulum": Entry("ppo_pendulum", -170, -174.9),
    "sac_pendulum": Entry("sac_pendulum", -150, -151.0, sets=FRESH_FEW),
    "crossq_pendulum": Entry("crossq_pendulum", -146, -145.7, FRESH_FEW),
    "td3_pendulum": Entry("td3_pendulum", -155, sets=FRESH_FEW),
    "ddpg_pendulum": Entry("ddpg_pendulum"),
    "dqn_mountaincar": Entry("dqn_mountaincar", greedy=(-115, 13)),
    "sac_mountaincarcontinuous": Entry("sac_mountaincarcontinuous", sets=FRESH_FEW, greedy=(90, 26)),
    "ppo_memorychain": Entry("ppo_memorychain", 0.95),
    "ppo_memorychain, 20 steps": Entry("ppo_memorychain", 0.95, sets=LONG),
    "dqn_memorychain": Entry("dqn_memorychain", 0.95, sets=FRESH_FEW),
    "dqn_memorychain, 20 steps": Entry("dqn_memorychain", 0.95, sets=LONG + FRESH_FEW),
    "ppo_memorychain, MLP": Entry("ppo_memorychain", sets=FEEDFORWARD),
    "dqn_memorychain, MLP": Entry("dqn_memorychain", sets=FEEDFORWARD + FRESH_FEW),
    "ppo_hidden_cartpole": Entry("ppo_hidden_cartpole", 475),
    "ppo_hidden_cartpole, MLP": Entry("ppo_hidden_cartpole", sets=FEEDFORWARD),
    "ppo_minatar, Breakout": Entry("ppo_minatar", sets=BREAKOUT, curve=True),
    "pqn_minatar, Breakout": Entry("pqn_minatar", sets=BREAKOUT, curve=True),
}
# Frames and returns (164 episodes of sampled actions, one training run) in agents/Breakout-MinAtar/ppo.pkl of
# github.com/RobertTLange/gymnax-blines: the PPO that gymnax's README shows, up to 1e6 frames.
GYMNAX_PPO = ((319_936, 639_936, 959_936), (8.37, 15.45, 16.63))
FIGURE = ROOT / "docs" / "images" / "breakout_minatar.png"


def command(entry: Entry) -> str:
    """What a person types."""
    sets = "".join(f" --set {s!r}" if " " in s else f" --set {s}" for s in entry.sets)
    return f"python -m slmjax.run configs/{entry.config}.yaml{sets}"


def run(entry: Entry, more: Sequence[str] = ()) -> dict[str, Any]:
    """Runs an entry, with `more` changes, in a folder of its own and reads what it wrote."""
    sets = [word for change in (*entry.sets, *more) for word in ("--set", change)]
    config = ROOT / "configs" / f"{entry.config}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "slmjax.run", str(config), *sets], cwd=folder, check=True)
        (data,) = (Path(folder) / "data").iterdir()
        (metrics,) = (json.loads(p.read_text()) for p in data.glob("info/*_trial_metrics.json"))
        manifest = json.loads((data / "manifest.json").read_text())
        tables = [pd.read_csv(path) for path in sorted(data.glob("info/*_session_df.csv"))]
    finals = [s["final_eval_reward"] for s in metrics["sessions"] if s["final_eval_reward"] is not None]
    curve = {"curve": returns(tables)} if entry.curve else {}
    return curve | {
        "frames": manifest["frame"],
        "sessions": metrics["num_sessions"],
        "failed": len(metrics["failed"]),
        "stuck": len(metrics["stuck"]),
        "final_return": metrics["final_return"],
        "final_return_ma": metrics["final_return_ma"],
        "std": metrics["final_return_ma_std"],
        "greedy": metrics["final_eval_reward_mean"],
        "greedy_sessions": sorted(finals),
        "digest": digest(entry),
        "commit": _git("log", "-1", "--format=%h", "--", "slmjax", "configs"),
        "changed": bool(_git("status", "--porcelain", "--", "slmjax", "configs")),
    }


def returns(tables: list[pd.DataFrame]) -> dict[str, list[float | None]]:
    """Mean over sessions of the returns while learning (`played`) and of greedy evaluations, at each frame of a row."""
    means = {
        name: np.nanmean([table[column] for table in tables], 0)
        for name, column in (("played", "total_reward"), ("greedy", "eval_reward"))
    }
    shown = {name: [None if np.isnan(x) else round(float(x), 2) for x in mean] for name, mean in means.items()}
    return {"frame": tables[0]["frame"].tolist()} | shown


def draw(results: dict[str, Any]) -> None:
    """The figure of MinAtar Breakout, from what `returns` kept."""
    from slmjax.analysis import style

    fig, (ax,) = style.new_figure(1)
    sessions = " and ".join(sorted({str(r["sessions"]) for r in results.values() if "curve" in r}))
    for name, color in (("PPO", style.BLUE), ("PQN", style.ORANGE)):
        kept = results[f"{name.lower()}_minatar, Breakout"]["curve"]
        style.curve(ax, kept["frame"], [np.nan if x is None else x for x in kept["played"]], color=color, label=name)
        known = [(frame, x) for frame, x in zip(kept["frame"], kept["greedy"], strict=True) if x is not None]
        ax.plot(*zip(*known, strict=True), "o", color=color, markersize=5, label=f"{name}, greedy", clip_on=False)
    ax.plot(*GYMNAX_PPO, "s--", color=style.GREY, label="gymnax's PPO")
    style.frame_axis(ax, 1e6)
    style.label_y(ax, "return")
    style.headline(ax, "Breakout-MinAtar", f"mean over {sessions} sessions; lines: episodes played while learning")
    style.save(fig, FIGURE)


def digest(entry: Entry) -> str:
    """Tells two versions of a config from each other."""
    text = (ROOT / "configs" / f"{entry.config}.yaml").read_text()
    return hashlib.sha256("\n".join((text, *entry.sets)).encode()).hexdigest()[:12]


def _git(*words: str) -> str:
    """What git says; nothing where there is none."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def verdict(entry: Entry, result: dict[str, Any]) -> str:
    """Whether an entry reached what is asked of it; empty where nothing is."""
    if entry.greedy:
        least, needed = entry.greedy
        reached = sum(x >= least for x in result["greedy_sessions"])
        return f"{reached} of {result['sessions']} at {least:g} ({needed}): {'yes' if reached >= needed else 'NO'}"
    if entry.bar is None:
        return ""
    if result["final_return_ma"] is None:
        return f"{entry.bar:g}: the run is too short to say"
    return f"{entry.bar:g}: {'yes' if result['final_return_ma'] >= entry.bar else 'NO'}"


def table(names: list[str], results: dict[str, Any]) -> str:
    """The rows of `names`, those that have been measured."""
    lines = [
        "| `python -m slmjax.run` ... | frames | sessions | final_return | final_return_ma | greedy | SLM Lab | bar |"
    ]
    lines += ["|" + "---|" * 8]
    measured = [name for name in names if name in results]
    if not measured:
        return "Not measured yet."
    for name in measured:
        entry, r = ENTRIES[name], results[name]
        known = [abs(r[key]) for key in ("final_return_ma", "greedy") if r[key] is not None]
        digits = 2 if known and known[0] < 10 else 1
        average, std, greedy = ("none" if (x := r[key]) is None else f"{x:.{digits}f}" for key in FIGURES)
        figure = f"{average} ± {std} | {greedy}" if r["std"] is not None else f"{average} | {greedy}"
        published = "" if entry.published is None else f"{entry.published:g}"
        words = command(entry).removeprefix("python -m slmjax.run ")
        words = f"`{words}`" if r.get("digest") in (None, digest(entry)) else f"`{words}`, as it was before"
        score = "" if r.get("final_return") is None else f"{r['final_return']:.{digits}f}"
        score += f", {r['stuck']} stuck" if r.get("stuck") else ""
        row = [words, f"{r['frames']:,}", str(r["sessions"]), score, figure, published, verdict(entry, r)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def write_tables() -> None:
    """Puts the tables where a page says `<!-- results: NAME ... -->`; `all` stands for every name."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text()
        page.write_text(filled(text, results))
    if all(name in results and "curve" in results[name] for name, entry in ENTRIES.items() if entry.curve):
        draw(results)


def filled(text: str, results: dict[str, Any]) -> str:
    """A page with its tables written again."""

    def fill(match: re.Match[str]) -> str:
        patterns = match[1].split()
        names = [n for n in ENTRIES if "all" in patterns or ENTRIES[n].config in patterns]
        return f"<!-- results: {match[1]} -->\n\n{table(names, results)}\n\n<!-- end -->"

    return re.sub(r"<!-- results: (.*?) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help=f"default: all of {', '.join(ENTRIES)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of every entry")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures are kept (default: the docs')")
    parser.add_argument("--tables", action="store_true", help="run nothing, write the tables")
    args = parser.parse_args()
    unknown = [name for name in args.entries if name not in ENTRIES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(ENTRIES)}")
    if args.set and args.results == RESULTS:
        parser.error("--set needs --results: the docs' figures are those of the entries as they are")
    for name in [] if args.tables else args.entries or list(ENTRIES):
        result = run(ENTRIES[name], args.set)
        results = json.loads(args.results.read_text()) if args.results.exists() else {}
        args.results.write_text(json.dumps(results | {name: result}, indent=1) + "\n")
        print(f"{name}: {table([name], {name: result}).splitlines()[-1]}")
    if args.results == RESULTS:
        write_tables()


if __name__ == "__main__":
    main()
