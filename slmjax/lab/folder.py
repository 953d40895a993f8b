"""The folder that a run writes: names that scripts may depend on."""

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path

from slmjax.spec import dump_spec
from slmjax.spec.sections import Spec
from slmjax.types import UserError


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
