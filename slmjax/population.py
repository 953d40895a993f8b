"""Many sessions as one compiled program: `jit(shard_map(vmap(segment)))`, donated.

Sessions need no word from each other, so each device runs its share alone: `shard_map` keeps the program free of
collectives where `jit` with sharded inputs would put one into every `while_loop`. On a CPU each core is a device
(`lab.devices.use_every_core`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from slmjax.session import MAX_ROWS, Program, Session
from slmjax.types import HP, Array, Key, PyTree

AXIS = "session"


class Population(NamedTuple):
    """The functions of a `Program` over all sessions, axis 0 of every array.

    Where the number of sessions is no multiple of the number of devices, the last session is run more than once; such
    copies exist on the devices alone: `rows`, evaluations and `unpad` do not show them.

    Attributes:
        size: sessions.
        devices: devices that the sessions are spread over.
        init: `(keys [S], hp [S]) -> Session`.
        segment: `(sessions, hp, frame, stop, close) -> (sessions, rows)`; donates `sessions`.
        evaluate: `(sessions, hp, frame) -> returns [S, episodes]`.
        pad: a pytree `[S, ...]` placed on the devices.
        unpad: a pytree on the devices as `[S, ...]`.
        lower: `(sessions, hp) -> jax.stages.Lowered` of `segment`, to look at what is compiled.
    """

    size: int
    devices: tuple[Any, ...]
    init: Callable[[Key, HP], Session]
    segment: Callable[..., tuple[Session, dict[str, Array]]]
    evaluate: Callable[[Session, HP, int], Array]
    pad: Callable[[PyTree], PyTree]
    unpad: Callable[[PyTree], PyTree]
    lower: Callable[[Session, HP], jax.stages.Lowered]


def make_population(program: Program, size: int, devices: Sequence[Any] | None = None) -> Population:
    """The population of `size` sessions on `devices` (default: all), no more of them than there are sessions."""
    chosen = tuple(devices if devices is not None else jax.devices())[:size]
    mesh = Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    width = -(-size // len(chosen)) * len(chosen)
    index = np.minimum(np.arange(width), size - 1)
    each, same = PartitionSpec(AXIS), PartitionSpec()

    def spread(function: Callable, in_axes: tuple, donate: bool = False) -> Any:
        specs = tuple(each if axis == 0 else same for axis in in_axes)
        mapped = jax.shard_map(jax.vmap(function, in_axes), mesh=mesh, in_specs=specs, out_specs=each, check_vma=False)
        return jax.jit(mapped, donate_argnums=0 if donate else ())

    init = spread(program.init, (0, 0))
    segment = spread(program.segment, (0, 0, None, None, None), donate=True)
    evaluate = spread(program.evaluate, (0, 0, None))

    def take(tree: PyTree, rows: Any) -> PyTree:
        # On one device: rows of what is spread over several would be programs with collectives, many of them at once,
        # on which a CPU's devices can wait for each other for ever.
        return jax.tree.map(lambda x: jax.device_put(x, chosen[0])[rows], tree)

    def pad(tree: PyTree) -> PyTree:
        return jax.device_put(tree if width == size else take(tree, index), sharding)

    def unpad(tree: PyTree) -> PyTree:
        return tree if width == size else take(tree, slice(size))

    def run_segment(
        sessions: Session, hp: HP, frame: int, stop: int, close: bool = True
    ) -> tuple[Session, dict[str, Array]]:
        if frame % program.iteration_frames or stop % program.iteration_frames:
            raise ValueError(f"expected multiples of {program.iteration_frames} frames, got {frame} and {stop}")
        if -(-stop // program.row_frames) - frame // program.row_frames > MAX_ROWS:
            raise ValueError(f"expected at most {MAX_ROWS} rows of {program.row_frames} frames, got {frame} to {stop}")
        sessions, rows = segment(sessions, hp, jnp.int32(frame), jnp.int32(stop), jnp.bool_(close))
        return sessions, unpad(rows)

    def run_evaluate(sessions: Session, hp: HP, frame: int) -> Array:
        return unpad(evaluate(sessions, hp, jnp.int32(frame)))

    def lower(sessions: Session, hp: HP) -> jax.stages.Lowered:
        return segment.lower(sessions, hp, jnp.int32(0), jnp.int32(0), jnp.bool_(True))

    return Population(size, chosen, init, run_segment, run_evaluate, pad, unpad, lower)


def stack(hps: Sequence[HP]) -> HP:
    """One `HP` with float32 leaves `[S]` from `S` of one structure.

    Raises:
        ValueError: structures differ: such sessions cannot share a program.
    """
    if len({jax.tree.structure(hp) for hp in hps}) > 1:
        raise ValueError("hyperparameters of different structure cannot share a program")
    return jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *hps)
