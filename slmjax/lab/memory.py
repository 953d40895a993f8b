"""Whether what a run must hold fits the memory, said before anything compiles."""

import os
import re
from pathlib import Path
from typing import Any

from slmjax.analysis.words import compact, plural
from slmjax.lab.arrays import described
from slmjax.population import Population
from slmjax.session import Session
from slmjax.types import UserError

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

_CGROUPS = (  # limit, use, and what of the use could be given back
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def refuse_what_does_not_fit(one: Session, population: Population) -> None:
    """Holds the state of all sessions against the memory that is free on the machine or on the devices.

    `one` is a session, of which shapes and dtypes are enough. What else a program needs is known only when
    it has been compiled; it is that of one batch.

    Raises:
        UserError: it does not fit.
    """
    free = available(population.devices)
    batches = -(-population.size // population.lanes)
    each = bytes_of(one)
    needed = each * population.lanes * -(-batches // len(population.devices))
    if free is None or needed <= free:
        return
    part, most = max(((name, bytes_of(tree)) for name, tree in _parts(one)), key=lambda pair: pair[1])
    # On an accelerator a batch is as wide as need be; on a CPU its width is given.
    wide = population.lanes if population.devices[0].platform == "cpu" else 1
    fits = max(int(free // (each * wide)), 0) * wide * len(population.devices)
    where = "the machine" if population.devices[0].platform == "cpu" else "each device"
    raise UserError(
        f"the run does not fit the memory: {plural(population.size, 'session')} of {compact(each)}B come to "
        f"{compact(needed)}B on {where}, where {compact(free)}B are free. {most / each:.0%} of each is its {part}. "
        + (f"At most {plural(fits, 'such session')} fit (meta.max_session)" if fits else "Not even one fits")
        + (", or set a smaller agent.memory.max_size." if part == "memory" else ".")
    )


def bytes_of(tree: Any) -> int:
    """What the arrays of a pytree take; shapes and dtypes are enough."""
    return sum(x.size * x.dtype.itemsize for _, x in described(tree))


def _parts(one: Session) -> list[tuple[str, Any]]:
    return [
        ("memory", one.agent.memory),
        ("networks", (one.agent.policy, one.agent.learner, one.best)),
        ("environments", (one.env, one.obs, one.carry)),
    ]


def available(devices: tuple[Any, ...]) -> int | None:
    """Bytes that this process can still have; on an accelerator, of one device. None where nobody says."""
    if devices[0].platform != "cpu":
        told = devices[0].memory_stats() or {}
        return told["bytes_limit"] - told.get("bytes_in_use", 0) if "bytes_limit" in told else None
    said = (_machine(), _address_space(), *(_cgroup(*paths) for paths in _CGROUPS))
    known = [max(free, 0) for free in said if free is not None]
    return min(known, default=None)


def _machine() -> int | None:
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    return int(found[1]) * 1024 if found else None


def _address_space() -> int | None:
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")


def _cgroup(limit: str, use: str, stat: str) -> int | None:
    most, used = _text(limit).strip(), _text(use).strip()
    if not most.isdigit() or not used.isdigit():
        return None
    cache = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(stat), re.MULTILINE)
    return int(most) - int(used) + (int(cache[1]) if cache else 0)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
