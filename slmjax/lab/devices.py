"""The machine: its cores, and where programs compiled for it are kept."""

import os
from pathlib import Path
from typing import Any

import jax


def _config(name: str) -> Any:
    return getattr(jax.config, name)  # made at run time, so no type checker knows it


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where compiled programs are kept between runs: `SLMJAX_CACHE`, or the user's cache folder."""
    root = os.environ.get("SLMJAX_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(root) if root else base / "slmjax" / "xla"


def cache_programs() -> None:
    """Keeps compiled programs on disk, per user and unreadable to others: who can write there can run code here.

    A folder made here has mode 0700. One that was there keeps its own, so let `SLMJAX_CACHE` name one of yours. Does
    nothing where a cache is configured or turned off already, or the folder cannot be made (a run must not fail for
    that).
    """
    if _config("jax_compilation_cache_dir") or not _config("jax_enable_compilation_cache"):
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
