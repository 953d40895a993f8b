"""Many sessions as one compiled program, run in batches of a fixed width.

A *batch* is `W` lanes, `jit(vmap(segment))` with donated sessions; with `W = 1` there is no `vmap`. All batches run
through the same program. So another number of sessions compiles nothing, temporary memory is that of the batches
under way, and what a session learns does not depend on how many others run, to the last bit. (Under one
`vmap` over all of them it does: XLA sums in another order for another number of lanes; and many lanes overflow a CPU's
caches. Accelerators want many lanes: unless `meta.lanes` says otherwise there is one batch a device.)

Sessions need no word from each other, so batches need none. On a CPU they are on one device, and threads, one a core,
run them: XLA runs in turn what one thread hands it, and at once what different ones do. On accelerators they go round
the devices, with a thread each.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.batches import Batches, Compiled, Layout
from slmjax.session import MAX_ROWS, Program, Session
from slmjax.types import HP, Array, PyTree

# By default XLA hands the operations of a program to a pool of threads, to run several at once: where each takes a
# microsecond, half of the time then goes into the handing over.
ON_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

# By default XLA leaves products and sums to a library of small kernels, YNN. Of the sums that the gradient of a
# normalising layer is made of it takes ten times as long as XLA's own loops (PQN: half of the whole time); of others it
# takes less.
SUMS_BY_XLA = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
}

Packed = dict[tuple[str, ...], Any]  # see `_pack`


class Population(NamedTuple):
    """The functions of a `Program` over all sessions.

    Attributes:
        size: sessions, `S`.
        lanes: `W`, sessions of a batch.
        devices: devices that the batches are on.
        threads: batches that run at once.
        init: `(keys, hp) -> sessions`, all in batches.
        segment: `(sessions, hp, frame, stop, close=True, late=0) -> (sessions, rows)`: as `Program.segment`; rows
            `[S, rows]` on the host, as many as ended; donates `sessions`.
        evaluate: `(sessions, hp, frame) -> returns [S, episodes]` on the host.
        place: a pytree `[S, ...]` in batches on the devices.
        repeat: an `HP` of one session in batches: the same for every session, placed once a device.
        gather: batches as a pytree `[S, ...]` on the first device.
        parts: `(batches)`: of each leaf an iterator over arrays `[n, ...]` on the host, `S` rows in all and in order;
            on a CPU they are views of what the device holds. Keys of random numbers come as their data.
        lower: `(sessions, hp) -> jax.stages.Lowered` of `segment`, to look at what is compiled.
    """

    size: int
    lanes: int
    devices: tuple[Any, ...]
    threads: int
    init: Callable[[Batches, Batches], Batches]
    segment: Callable[..., tuple[Batches, dict[str, np.ndarray]]]
    evaluate: Callable[[Batches, Batches, int], np.ndarray]
    place: Callable[[PyTree], Batches]
    repeat: Callable[[HP], Batches]
    gather: Callable[[Batches], PyTree]
    parts: Callable[[Batches], list[Iterator[np.ndarray]]]
    lower: Callable[[Batches, Batches], jax.stages.Lowered]


def make_population(
    program: Program,
    size: int,
    devices: Sequence[Any] | None = None,
    lanes: int | None = 1,
    threads: int = 1,
    normalising: bool = False,
) -> Population:
    """The population of `size` sessions in batches of `lanes` (None: one a device).

    Args:
        program: the functions of one session.
        size: sessions.
        devices: where the batches are, in turn; by default all accelerators, or the first device of a CPU.
        lanes: sessions of a batch.
        threads: batches that run at once; there is at least one a device.
        normalising: whether networks standardise features; it makes them fast.
    """
    everyone = tuple(devices if devices is not None else _usual_devices())
    wide = -(-size // len(everyone)) if lanes is None else lanes
    layout = Layout(size, wide, everyone[: -(-size // wide)])
    threads = min(max(threads, len(layout.devices)), len(layout.firsts))
    options = _compiler_options(normalising) if everyone[0].platform == "cpu" else None
    init, segment, evaluate = _batched(program, wide, layout.devices, threads, options)

    def run_init(keys: Batches, hp: Batches) -> Batches:
        return tuple(init(zip(keys, hp, strict=True), jax.block_until_ready))

    def run_segment(
        sessions: Batches, hp: Batches, frame: int, stop: int, close: bool = True, late: int = 0
    ) -> tuple[Batches, dict[str, np.ndarray]]:
        ended = _rows_ended(program, frame, stop, close)
        fetch = lambda done: (done[0], {names: _fetch(x, ended) for names, x in done[1].items()})  # noqa: E731
        now = np.int32(frame), np.int32(stop), np.bool_(close), np.int32(late)
        done = segment([(*batch, *now) for batch in zip(sessions, hp, strict=True)], fetch)
        rows = [packed for _, packed in done]
        whole = {names: np.concatenate([batch[names] for batch in rows])[:size] for names in rows[0]}
        return tuple(session for session, _ in done), _unpack(whole)

    def run_evaluate(sessions: Batches, hp: Batches, frame: int) -> np.ndarray:
        batches = [(*batch, np.int32(frame)) for batch in zip(sessions, hp, strict=True)]
        return np.concatenate(evaluate(batches, np.asarray))[:size]

    def lower(sessions: Batches, hp: Batches) -> jax.stages.Lowered:
        return segment.lower(sessions[0], hp[0], np.int32(0), np.int32(0), np.bool_(True), np.int32(0))

    return Population(
        size,
        wide,
        layout.devices,
        threads,
        init=run_init,
        segment=run_segment,
        evaluate=run_evaluate,
        place=layout.place,
        repeat=layout.repeat,
        gather=layout.gather,
        parts=layout.parts,
        lower=lower,
    )


def _batched(
    program: Program, lanes: int, devices: tuple[Any, ...], threads: int, options: dict[str, str] | None
) -> tuple[Compiled, Compiled, Compiled]:
    """`init`, `segment` and `evaluate` of a program over the `lanes` of a batch."""
    step: Callable[..., tuple[Session, dict[str, Array]]] = program.segment

    def segment(sessions: Session, hp: HP, frame: Array, *more: Array) -> tuple[Session, Packed]:
        sessions, rows = over_lanes(lambda s, h: step(s, h, frame, *more), lanes)(sessions, hp)
        return sessions, _pack(rows)

    def evaluate(sessions: Session, hp: HP, frame: Array) -> Array:
        return over_lanes(lambda s, h: program.evaluate(s, h, frame), lanes)(sessions, hp)

    return (
        Compiled(over_lanes(program.init, lanes), devices, threads, options),
        Compiled(segment, devices, threads, options, donate=True),
        Compiled(evaluate, devices, threads, options),
    )


def _rows_ended(program: Program, frame: int, stop: int, close: bool) -> int:
    """Rows that a segment from `frame` to `stop` ends.

    Raises:
        ValueError: it ends within an iteration, or spans more rows than a segment can hold.
    """
    if frame % program.iteration_frames or stop % program.iteration_frames:
        raise ValueError(f"expected multiples of {program.iteration_frames} frames, got {frame} and {stop}")
    if -(-stop // program.row_frames) - frame // program.row_frames > MAX_ROWS:
        raise ValueError(f"expected at most {MAX_ROWS} rows of {program.row_frames} frames, got {frame} to {stop}")
    whole = stop // program.row_frames - frame // program.row_frames
    return whole + bool(close and stop % program.row_frames and stop >= frame)


def _usual_devices() -> Sequence[Any]:
    return jax.devices()[:1] if jax.default_backend() == "cpu" else jax.devices()


@cache
def _compiler_options(normalising: bool) -> dict[str, str]:
    """What XLA is told on a CPU."""
    if not normalising:
        return ON_CPU
    try:  # an experimental option: another version of jaxlib may not know it
        jax.jit(lambda: 0, compiler_options=SUMS_BY_XLA).lower().compile()
    except jax.errors.JaxRuntimeError:
        return ON_CPU
    return ON_CPU | SUMS_BY_XLA


def over_lanes(function: Callable, lanes: int) -> Callable:
    """`function` over arguments `[lanes, ...]`: `vmap`, but where there is one lane the function as it is.

    A batch axis of length 1 is not free: XLA transposes products around it.
    """
    if lanes > 1:
        return jax.vmap(function)

    def one(*arguments: PyTree) -> PyTree:
        done = function(*jax.tree.map(lambda x: jax.lax.squeeze(x, (0,)), arguments))
        return jax.tree.map(lambda x: jax.lax.expand_dims(x, (0,)), done)

    return one


def _pack(rows: dict[str, Array]) -> Packed:
    """Columns `[W, rows]` as one array `[W, columns, rows]` a dtype: each array that is fetched costs its microseconds.

    The key of an array is the names of its columns.
    """
    kinds: dict[Any, list[str]] = {}
    for name, values in rows.items():
        kinds.setdefault(values.dtype, []).append(name)
    return {tuple(names): jnp.stack([rows[name] for name in names], 1) for names in kinds.values()}


def _unpack(packed: Packed) -> dict[str, np.ndarray]:
    return {name: x[:, i] for names, x in packed.items() for i, name in enumerate(names)}


def _fetch(packed: Array, rows: int) -> np.ndarray:
    """The first `rows` of `[W, columns, MAX_ROWS]` on the host."""
    if next(iter(packed.devices())).platform != "cpu":  # what is not asked for need not travel; few lengths compile
        packed = packed[..., : min(1 << (rows - 1).bit_length() if rows else 0, MAX_ROWS)]
    return np.asarray(packed)[..., :rows].copy()  # a view would keep room for all rows of all batches
