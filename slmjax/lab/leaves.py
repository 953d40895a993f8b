"""Named arrays in a folder: how policies, results and checkpoints are kept. No pickle: data, and nothing that runs.

    folder/
      about.json    what the writer says, and name, file, shape, dtype and SHA-256 of each leaf
      0.npy ...     one leaf each, in NumPy's format

A name is what `jax.tree_util.keystr` says of a leaf. A folder is there whole or not at all: it is written beside its
place, brought to the disk, and renamed.
"""

import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax  # noqa: F401  NumPy then knows bfloat16 by its name
import numpy as np

from slmjax.spec.errors import brief
from slmjax.types import UserError

ABOUT = "about.json"
FORMAT = "slmjax leaves 1"
_LARGEST_ABOUT = 1 << 26  # bytes; the largest of ours have some thousand

# Name, shape, dtype, and the array in parts along axis 0 (of a scalar: itself).
Leaf = tuple[str, tuple[int, ...], Any, Iterable[np.ndarray]]


class Entry(NamedTuple):
    """A leaf as `about.json` has it."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    sha256: str


def whole(leaves: dict[str, np.ndarray]) -> Iterator[Leaf]:
    """Arrays by name, as `write` wants them."""
    return ((name, x.shape, x.dtype, (x,)) for name, x in leaves.items())


def write(folder: Path, about: dict[str, Any], leaves: Iterable[Leaf]) -> None:
    """Writes leaves and `about` (what JSON can hold). A folder that was written by this function is replaced.

    Each part goes to its file as it is: no leaf is held in memory a second time.

    Raises:
        UserError: something else is at `folder`.
        OSError: it cannot be written (the disk is full); nothing is left behind.
        ValueError: parts that do not make up their leaf, or a name that comes twice.
    """
    if os.path.lexists(folder) and not (folder / ABOUT).is_file():
        raise UserError(f"cannot write {folder}: it is there, and holds something else.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{end}") for end in ("part", "old"))
    try:
        made.mkdir()
        entries = [_write_leaf(made, f"{i}.npy", *leaf) for i, leaf in enumerate(leaves)]
        if len({entry["name"] for entry in entries}) < len(entries):
            raise ValueError(f"a name comes twice: {sorted(entry['name'] for entry in entries)}")
        with (made / ABOUT).open("x", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "about": about, "leaves": entries}, file, indent=1)
            _sync(file)
        _sync_folder(made)
        if folder.exists():  # a folder that is not empty cannot be renamed over
            folder.rename(old)
        made.rename(folder)
        _sync_folder(folder.parent)
    finally:
        for rest in (made, old):
            shutil.rmtree(rest, ignore_errors=True)


def _write_leaf(
    folder: Path, file: str, name: str, shape: tuple[int, ...], dtype: Any, parts: Iterable[np.ndarray]
) -> dict[str, Any]:
    dtype, digest, rows = np.dtype(dtype), hashlib.sha256(), 0
    with (folder / file).open("xb") as out:
        tee = _Tee(out, digest)
        np.lib.format.write_array_header_1_0(tee, _header(shape, dtype))  # type: ignore[arg-type]
        for part in parts:
            if part.dtype != dtype or part.shape[1:] != shape[1:] or part.ndim != len(shape):
                raise ValueError(f"{name}: a part {part.dtype}{list(part.shape)} of {dtype}{list(shape)}")
            rows += part.shape[0] if part.ndim else 1
            tee.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        if rows != (shape[0] if shape else 1):
            raise ValueError(f"{name}: parts of {rows} rows in all, expected {list(shape)}")
        _sync(out)
    return {"name": name, "file": file, "shape": list(shape), "dtype": dtype.name, "sha256": digest.hexdigest()}


class _Tee(NamedTuple):
    """A file that takes the digest of what is written to it."""

    file: IO[bytes]
    digest: Any

    def write(self, data: Any) -> None:
        self.digest.update(data)
        self.file.write(data)


def _header(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(_plain(dtype)), "fortran_order": False, "shape": tuple(shape)}


def _plain(dtype: np.dtype) -> np.dtype:
    """What NumPy's format has for a dtype: bytes of that size for those that NumPy itself does not have (bfloat16)."""
    return np.dtype(f"V{dtype.itemsize}") if dtype.kind == "V" else dtype


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write` was given: `about`, and the leaves by name.

    Raises:
        UserError: something is missing, cut short, changed, or was never such a folder.
    """
    about, _, arrays = stream(folder)
    return about, dict(arrays)


def stream(folder: Path) -> tuple[dict[str, Any], list[Entry], Iterator[tuple[str, np.ndarray]]]:
    """As `read`, with what is said of the leaves, and the leaves one by one, each read when it is its turn.

    Everything that can be held against something is, and before any array is made: names, shapes, dtypes, the sizes of
    the files; then, leaf by leaf, the digests.

    Raises:
        UserError: as `read`; from the iterator where a digest differs.
    """
    about, entries = read_about(folder)
    starts = [_check_file(folder / entry.file, entry) for entry in entries]
    pairs = zip(entries, starts, strict=True)
    return about, entries, ((e.name, _read_leaf(folder / e.file, e, start)) for e, start in pairs)


def read_about(folder: Path) -> tuple[dict[str, Any], list[Entry]]:
    """What is in a folder, without the leaves.

    Raises:
        UserError: `about.json` is missing, or slmjax did not write it.
    """
    path = folder / ABOUT
    if _size(path) > _LARGEST_ABOUT:
        raise _broken(path, "it is too large")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, "it is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        got = found.get("format") if isinstance(found, dict) else found
        raise _broken(path, f"expected the format {FORMAT!r}, got {brief(repr(got))}")
    about, rows = found.get("about"), found.get("leaves")
    if not isinstance(about, dict) or not isinstance(rows, list):
        raise _broken(path, "about or leaves is missing")
    entries = [_entry(path, i, row) for i, row in enumerate(rows)]
    if len({entry.name for entry in entries}) < len(entries):
        raise _broken(path, "a name comes twice")
    return about, entries


def _entry(path: Path, number: int, row: Any) -> Entry:
    try:
        entry = Entry(row["name"], row["file"], tuple(row["shape"]), np.dtype(row["dtype"]), row["sha256"])
    except (TypeError, KeyError, ValueError) as error:
        raise _broken(path, f"leaf {number} is {brief(repr(row))}") from error
    sized = all(type(n) is int and n >= 0 for n in entry.shape)
    # Its own number and nothing else, or a file could be anywhere on the machine.
    if not sized or entry.file != f"{number}.npy" or entry.dtype.hasobject or entry.dtype.name != row["dtype"]:
        raise _broken(path, f"leaf {number} is {brief(repr(row))}")
    return entry


def _check_file(path: Path, entry: Entry) -> int:
    """Holds a file's size and header against its entry: where the data begin."""
    size = _size(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else ((), True, None)
            start = file.tell()
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    except Exception as error:  # NumPy raises several kinds for a damaged header
        raise _broken(path, "its header is damaged") from error
    if shape != entry.shape or fortran or dtype != _plain(entry.dtype):
        raise _broken(path, f"its header is not that of {entry.name} in {ABOUT}")
    expected = start + math.prod(entry.shape) * entry.dtype.itemsize
    if size != expected:
        raise _broken(path, f"expected {expected} bytes, got {size}")
    return start


def _read_leaf(path: Path, entry: Entry, start: int) -> np.ndarray:
    value = np.empty(entry.shape, entry.dtype)
    space = value.reshape(-1).view(np.uint8)
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(start))
            filled = file.readinto(space.data)
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    digest.update(space.data)
    if filled != space.size or digest.hexdigest() != entry.sha256:
        raise _broken(path, "it is not what was written: the digests differ")
    return value


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait forever
        raise _broken(path, "it is not a regular file")
    return found.st_size


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"cannot read {path}: {why}.")
