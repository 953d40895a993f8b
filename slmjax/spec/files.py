"""Spec files as text: read, decoded, bounded, and with placeholders that survive a YAML parser."""

import difflib
import os
import re
from pathlib import Path

from slmjax.spec.errors import fail, show
from slmjax.spec.nodes import BYTES

# `{frame: ${max_frame}}` is no YAML: its braces travel as private characters through the parser.
_OPEN, _CLOSE = "\ue000", "\ue001"
# Narrower than `PLACEHOLDER`, which is for one scalar: in a whole text, `{a: '${'}` must stay what it is.
_NAMED = re.compile(r"\$\{(\w[\w.-]*)\}")
_MARKED = re.compile(rf"\${_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


def text_of(file: str) -> str:
    """The text of a spec file, its placeholders marked.

    Raises:
        SpecError: missing, unreadable, a directory, of another ending, too large, or no UTF-8.
    """
    suffix = Path(file).suffix.lower()
    try:
        with open(file, "rb") as stream:
            data = stream.read(BYTES + 1)
    except FileNotFoundError:
        raise fail(f"no such file.{_nearest_file(file)}", (file, 0)) from None
    except IsADirectoryError:
        raise fail("expected a file, got a directory", (file, 0)) from None
    except (OSError, ValueError) as error:
        raise fail(f"cannot read the file ({getattr(error, 'strerror', None) or error})", (file, 0)) from None
    if suffix not in (".yaml", ".yml", ".json"):
        raise fail(f"expected a .yaml, .yml or .json file, got the ending {show(suffix)}", (file, 0))
    if len(data) > BYTES:
        raise fail(f"expected at most {BYTES} bytes, got a larger file", (file, 0))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fail(f"expected UTF-8 text, got the byte 0x{data[error.start]:02x}", (file, line)) from None
    # YAML allows no tab before a token, JSON does; and inside a JSON string there can be none.
    return mark(text.replace("\t", " ") if suffix == ".json" else text)


def _nearest_file(file: str) -> str:
    try:
        near = difflib.get_close_matches(Path(file).name, os.listdir(Path(file).parent)[:1000], n=1)
    except OSError:
        return ""
    return f" Did you mean {str(Path(file).parent / near[0])!r}?" if near else ""


def mark(text: str) -> str:
    """Text in which every `${name}` is a plain word to YAML; columns stay what they were."""
    return text if _OPEN in text else _NAMED.sub(rf"${_OPEN}\1{_CLOSE}", text)


def unmark(text: str) -> str:
    """The inverse of `mark`."""
    return _MARKED.sub(r"${\1}", text)
