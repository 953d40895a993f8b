"""The folder that a run writes: names that scripts may depend on, and the manifest that says how it came about."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from slmjax.spec import dump_spec
from slmjax.spec.sections import Spec
from slmjax.types import UserError

PACKAGES = ("slmjax", "jax", "jaxlib", "flax", "optax", "numpy", "gymnax", "gymnasium", "orbax-checkpoint", "pandas")


def create(spec: Spec, root: Path) -> Path:
    """A new folder `{root}/{name}_{YYYY_MM_DD_HHMMSS}` with the resolved spec in it.

    Raises:
        UserError: the folder cannot be written.
    """
    stamp = datetime.datetime.now().strftime("%Y_%m_%d_%H%M%S")
    for suffix in ("", *(f"_{i}" for i in range(2, 100))):
        folder = root / f"{spec.name}_{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # another run began in the same second
        except OSError as error:
            raise UserError(f"cannot write the output folder {folder}: {error.strerror or error}.") from error
        break
    try:
        for part in ("info", "graph", "model", "log"):
            (folder / part).mkdir()
        write_spec(spec, folder)
    except OSError as error:
        raise UserError(f"cannot write the output folder {folder}: {error.strerror or error}.") from error
    return folder


def write_spec(spec: Spec, folder: Path) -> None:
    """Writes the resolved spec, which reproduces the run."""
    path = folder / f"{spec.name}_spec.yaml"
    part = path.with_suffix(".part")
    part.write_text(dump_spec(spec), encoding="utf-8")
    part.replace(path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While it lasts, no other process can write this run.

    Raises:
        UserError: another process does.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix: nobody can tell
        yield
        return
    with (folder / "log" / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is writing the run in {folder}.") from error
        yield


def find_spec(folder: Path) -> Path:
    """The resolved spec in a run's folder.

    Raises:
        UserError: not a run's folder.
    """
    found = sorted(folder.glob("*_spec.yaml")) if folder.is_dir() else []
    if not found:
        raise UserError(f"{folder} is not the folder of a run: expected a *_spec.yaml in it.")
    return found[0]


def write_manifest(spec: Spec, folder: Path, mode: str, state: str, **facts: Any) -> None:
    """Writes what, beside the spec, a run depends on, and how far it is: `running`, `stopped` or `complete`."""
    from slmjax.analysis.tables import write_json

    write_json({**_circumstances(spec), "mode": mode, "state": state, **facts}, folder / "manifest.json")


def mode_of(folder: Path) -> str:
    """The mode that a folder was made in; `train` where it does not say."""
    try:
        return str(json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("mode", "train"))
    except (OSError, ValueError):
        return "train"


def _circumstances(spec: Spec) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    devices = jax.devices()
    return {
        "spec": spec.name,
        "seed": spec.meta.seed,
        "command": [sys.executable.rsplit("/", 1)[-1], *sys.argv],
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": [f"{d.platform}:{d.device_kind}" for d in devices],
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
