"""Named arrays in a folder: they come back as they were, and what is damaged is one message."""

import json
import os
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from slmjax.lab import leaves
from slmjax.types import UserError

ARRAYS = {
    ".agent.policy['w']": np.arange(12, dtype=np.float32).reshape(3, 4),
    ".key": np.array([[1, 2]], np.uint32),
    ".failed": np.int32(-1)[()] * np.ones((), np.int32),
    ".nothing": np.zeros((0, 5), np.float32),
    ".flags": np.array([True, False]),
    ".small": np.asarray(jnp.array([1.5, np.nan, -0.0], jnp.bfloat16)),
    ".wide": np.array([np.pi], np.float64),
    ".turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,  # not C-contiguous
}
ABOUT = {"spec": {"a": [1, None, "ü"]}, "frame": 3}


@pytest.fixture
def folder(tmp_path):
    leaves.write(tmp_path / "kept", ABOUT, leaves.whole(ARRAYS))
    return tmp_path / "kept"


def rewrite(folder, change) -> None:
    """Changes what `about.json` says."""
    path = folder / "about.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def test_what_was_written_is_read_bit_for_bit(folder):
    about, read = leaves.read(folder)
    assert about == ABOUT
    assert list(read) == list(ARRAYS)
    for name, value in ARRAYS.items():
        assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape)
        assert read[name].tobytes() == value.tobytes()


def test_each_file_is_one_of_numpys_and_nothing_else_is_left(folder):
    assert np.load(folder / "0.npy").tolist() == ARRAYS[".agent.policy['w']"].tolist()
    assert [path.name for path in folder.parent.iterdir()] == ["kept"]
    assert len(list(folder.iterdir())) == len(ARRAYS) + 1


def test_parts_make_up_a_leaf_without_a_second_copy(tmp_path):
    part = np.ones((1 << 20,), np.float32)
    tracemalloc.start()
    leaves.write(tmp_path / "kept", {}, [(".ring", (16 << 20,), np.float32, (part for _ in range(16)))])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < part.nbytes / 2
    assert leaves.read(tmp_path / "kept")[1][".ring"].sum() == 16 << 20


@pytest.mark.parametrize(
    "parts", [[np.zeros(2)], [np.zeros(2), np.zeros(2)], [np.zeros((3, 1))], [np.zeros(3, np.float32)]]
)
def test_parts_that_are_not_the_leaf_are_refused_and_leave_what_was_there(folder, parts):
    with pytest.raises(ValueError, match=r"\.x: "):
        leaves.write(folder, {}, [(".x", (3,), np.float64, parts)])
    assert leaves.read(folder)[0] == ABOUT
    assert [path.name for path in folder.parent.iterdir()] == ["kept"]


def test_a_folder_of_ours_is_replaced_and_no_other(folder, tmp_path):
    leaves.write(folder, {"new": 1}, [])
    assert leaves.read(folder) == ({"new": 1}, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("other", "file"):
        with pytest.raises(UserError, match="holds something else"):
            leaves.write(tmp_path / name, {}, [])


# ---------------------------------------------------------------------------------------------------------- damage


def cut(folder):
    data = (folder / "0.npy").read_bytes()
    (folder / "0.npy").write_bytes(data[:-1])


def flip(folder):
    data = bytearray((folder / "0.npy").read_bytes())
    data[-1] ^= 1
    (folder / "0.npy").write_bytes(data)


def of_any_size(folder):
    """A header, and an entry, that claim more than any machine has."""
    with (folder / "0.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 60,)})
    rewrite(folder, lambda about: about["leaves"][0].update(shape=[1 << 60]))


def pipe(folder):
    (folder / "0.npy").unlink()
    os.mkfifo(folder / "0.npy")


def about_pipe(folder):
    (folder / "about.json").unlink()
    os.mkfifo(folder / "about.json")


def elsewhere(folder):
    (folder / "0.npy").rename(folder.parent / "0.npy")
    rewrite(folder, lambda about: about["leaves"][0].update(file="../0.npy"))


DAMAGE = {
    "no about": (lambda f: (f / "about.json").unlink(), r"about\.json: No such file"),
    "about is no JSON": (lambda f: (f / "about.json").write_text('{"format"'), "it is not JSON"),
    "about is nested too deep": (lambda f: (f / "about.json").write_text("[" * 100_000), "it is not JSON"),
    "about is no text": (lambda f: (f / "about.json").write_bytes(b"\xff\xfe"), "it is not JSON"),
    "about is a pipe": (about_pipe, "not a regular file"),
    "another format": (lambda f: rewrite(f, lambda a: a.update(format="2")), "expected the format 'slmjax leaves 1'"),
    "no leaves": (lambda f: rewrite(f, lambda a: a.pop("leaves")), "is missing"),
    "an entry is none": (lambda f: rewrite(f, lambda a: a["leaves"].append(3)), "leaf 8 is 3"),
    "a negative shape": (lambda f: rewrite(f, lambda a: a["leaves"][0].update(shape=[-3, -4])), "leaf 0 is"),
    "objects": (lambda f: rewrite(f, lambda a: a["leaves"][0].update(dtype="object")), "leaf 0 is"),
    "another file": (elsewhere, "leaf 0 is"),
    "a name twice": (lambda f: rewrite(f, lambda a: a["leaves"][1].update(name=".flags")), "a name comes twice"),
    "a leaf is gone": (lambda f: (f / "3.npy").unlink(), r"3\.npy: No such file"),
    "a leaf is a folder": (lambda f: ((f / "3.npy").unlink(), (f / "3.npy").mkdir()), "not a regular file"),
    "a leaf is a pipe": (pipe, "not a regular file"),
    "a leaf is cut": (cut, "expected 176 bytes, got 175"),
    "a leaf is empty": (lambda f: (f / "0.npy").write_bytes(b""), "its header is damaged"),
    "a leaf is longer": (lambda f: (f / "0.npy").open("ab").write(b"\0"), "expected 176 bytes, got 177"),
    "a bit is flipped": (flip, "digests differ"),
    "another shape": (lambda f: rewrite(f, lambda a: a["leaves"][0].update(shape=[4, 3])), "not that of"),
    "another dtype": (lambda f: rewrite(f, lambda a: a["leaves"][0].update(dtype="int32")), "not that of"),
    "a claim beyond all memory": (of_any_size, "bytes, got"),
    "a pickle": (lambda f: np.save(f / "0.npy", np.array([print], object)), "not that of"),
}


@pytest.mark.parametrize("which", DAMAGE)
def test_what_is_damaged_is_one_message(folder, which):
    spoil, says = DAMAGE[which]
    spoil(folder)
    with pytest.raises(UserError, match=says) as caught:
        leaves.read(folder)
    assert str(caught.value).startswith(f"cannot read {folder}")
    assert "\n" not in str(caught.value)
