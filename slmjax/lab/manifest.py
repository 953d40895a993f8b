"""`manifest.json`: what else than its spec a run depends on, and how far it is.

A run that was stopped and continued has several parts. Each keeps its own circumstances (versions, commit, command,
devices) and seconds; what stands above them is of the run as a whole.
"""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from slmjax.lab.devices import cores
from slmjax.spec.sections import Spec

FILE = "manifest.json"
PACKAGES = ("slmjax", "jax", "jaxlib", "flax", "optax", "numpy", "gymnax", "gymnasium", "pandas")
SECONDS = ("compile_seconds", "run_seconds", "total_seconds")


def read(folder: Path) -> dict[str, Any]:
    """What is in a run's folder; empty where there is none, or none that can be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def begin(folder: Path, spec: Spec, mode: str, frame: int = 0) -> dict[str, Any]:
    """Writes that a part of a run begins at a frame: the manifest so far."""
    before = read(folder)
    parts = [part for part in before.get("parts", ()) if isinstance(part, dict)]
    for part in parts[-1:]:  # where it was killed, it could not say how far it came
        part["frames"] = [part.get("frames", [0])[0], frame]
        part["state"] = "killed" if part.get("state") == "running" else part.get("state")
    head = {"spec": spec.name, "seed": spec.meta.seed, "mode": mode}
    kept = {"checkpoint": frame or before.get("checkpoint")}  # None: there is none yet
    manifest = {**head, **kept, "parts": [*parts, circumstances() | {"frames": [frame, frame]}]}
    return note(folder, manifest, state="running")


def note(folder: Path, manifest: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Writes a manifest with facts: `state`, `frame` and seconds are of the last part, any other of the whole run."""
    from slmjax.analysis.tables import write_json

    part = dict(manifest["parts"][-1])
    of_part = {name: facts.pop(name) for name in SECONDS if name in facts}
    if "frame" in facts:
        part["frames"] = [part["frames"][0], facts["frame"]]
    parts = [*manifest["parts"][:-1], part | of_part | ({"state": facts["state"]} if "state" in facts else {})]
    sums = {name: sum(part.get(name) or 0.0 for part in parts) for name in SECONDS if name in parts[-1]}
    written = {**{k: v for k, v in manifest.items() if k != "parts"}, **facts, **sums, "parts": parts}
    write_json(written, folder / FILE)
    return written


def changes(manifest: dict[str, Any]) -> list[str]:
    """How the circumstances of the last part differ from those of the part before it: a phrase each."""
    if len(manifest["parts"]) < 2:
        return []
    before, now = manifest["parts"][-2:]
    pairs = [(name, before.get(name), now[name]) for name in ("python", "platform", "devices", "cores")]
    old, new = before.get("versions") or {}, now["versions"]
    pairs += [(name, old.get(name), new[name]) for name in new]
    old, new = before.get("git") or {}, now["git"]
    pairs += [("the commit", old.get("sha"), new["sha"]), ("uncommitted code", _short(old), _short(new))]
    return [f"{name} was {_say(a)} and is {_say(b)}" for name, a, b in pairs if a != b]


def _short(git: dict[str, Any]) -> str | None:
    return (git.get("diff_sha256") or "")[:12] or None


def _say(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{value.count(x)} x {x}" for x in dict.fromkeys(value))
    return "none" if value is None else str(value)


def circumstances() -> dict[str, Any]:
    """What this process runs on, and as what."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "began": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [sys.executable.rsplit("/", 1)[-1], *sys.argv],
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "cores": cores(),  # over which XLA splits large products, in an order that shows in their last bits
    }


def git_state() -> dict[str, str | None]:
    """SHA of the checkout that this code runs from, and a hash of what was changed on top of it; None outside git."""
    where = Path(__file__).resolve().parent
    sha = _git(where, "rev-parse", "HEAD")
    diff = _git(where, "diff", "HEAD") if sha else None
    return {
        "sha": sha.strip() if sha else None,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def _git(where: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
