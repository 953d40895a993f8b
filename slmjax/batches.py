"""Batches: how sessions lie in them, and a function of one, compiled once a device and run over all by threads."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.types import HP, Array, PyTree

Result = TypeVar("Result")

# What is spread over batches: one pytree a batch, its leaves `[W, ...]` on one device. Where the lanes of the last are
# more than the sessions left, copies of the last session fill it. No function of a population shows them.
Batches = tuple[PyTree, ...]


class Layout(NamedTuple):
    """`size` sessions in batches of `lanes`, which go round the devices.

    What a session has is a pytree; that of all has leaves `[S, ...]`.
    """

    size: int
    lanes: int
    devices: tuple[Any, ...]

    @property
    def firsts(self) -> range:
        """The first lane of each batch."""
        return range(0, self.size, self.lanes)

    def place(self, tree: PyTree) -> Batches:
        """What all sessions have, in batches."""
        lanes = [np.minimum(np.arange(first, first + self.lanes), self.size - 1) for first in self.firsts]
        return tuple(
            jax.tree.map(lambda x, i=i, at=at: _put(x, at, self._device(i)), tree) for i, at in enumerate(lanes)
        )

    def repeat(self, hp: HP) -> Batches:
        """The `HP` of one session for every session, placed once a device."""
        same = np.zeros(self.lanes, int)
        each = [jax.tree.map(lambda x, to=to: _put(x, same, to), stack([hp])) for to in self.devices]
        return tuple(each[i % len(each)] for i in range(len(self.firsts)))

    def parts(self, batches: Batches) -> list[Iterator[np.ndarray]]:
        """Each leaf on the host, batch by batch, without what fills up the last."""
        left = [self.size - first for first in self.firsts]
        every = zip(*map(jax.tree.leaves, batches), strict=True)
        return [(_on_host(x)[:n] for n, x in zip(left, leaf, strict=True)) for leaf in every]

    def gather(self, batches: Batches) -> PyTree:
        """What all sessions have, on the first device."""
        leaves, structure = jax.tree.flatten(batches[0])
        pairs = zip(leaves, self.parts(batches), strict=True)
        whole = [_like(leaf, np.concatenate([*parts]), self.devices[0]) for leaf, parts in pairs]
        return jax.tree.unflatten(structure, whole)

    def _device(self, batch: int) -> Any:
        return self.devices[batch % len(self.devices)]


class Compiled:
    """A function of a batch, compiled when it is first called.

    Threads call what is compiled and trace nothing: a context of JAX (`jax.enable_x64`, say) is that of its thread.
    """

    def __init__(
        self,
        function: Callable,
        devices: tuple[Any, ...],
        threads: int,
        options: dict[str, str] | None,
        donate: bool = False,
    ) -> None:
        self._devices = len(devices)
        self._threads = threads
        self._ready: list[Any] = []
        self.lower = jax.jit(function, donate_argnums=0 if donate else (), compiler_options=options).lower

    def __call__(self, batches: Iterable[tuple], finish: Callable[[Any], Result]) -> list[Result]:
        """`finish(function(*arguments))` of each batch; `finish` waits until it has been worked out."""
        given = [*batches]
        if not self._ready:
            lowered = [self.lower(*given[i]) for i in range(self._devices)]
            self._ready = in_threads(lambda i: lowered[i].compile(), self._devices, self._devices)
        return in_threads(lambda i: finish(self._ready[i % self._devices](*given[i])), len(given), self._threads)


def in_threads(work: Callable[[int], Result], count: int, threads: int) -> list[Result]:
    """`[work(0), ..., work(count - 1)]`, worked out in turn by so many threads; thread `k` does `k, k + threads, ...`.

    Where one fails, or the caller is interrupted, no other is begun.
    """
    if threads == 1 or count == 1:
        return [work(i) for i in range(count)]
    over = threading.Event()

    def share(first: int) -> list[Result]:
        try:
            return [work(i) for i in range(first, count, threads) if not over.is_set()]
        except BaseException:
            over.set()
            raise

    waiting = [_worker(k).submit(share, k) for k in range(min(threads, count))]
    try:
        found = [future.result() for future in waiting]
    finally:
        over.set()
    return [found[i % threads][i // threads] for i in range(count)]


@cache
def _worker(number: int) -> ThreadPoolExecutor:
    """A thread that stays: a pool of several gives quick work to one of them."""
    return ThreadPoolExecutor(1, f"slmjax-{number}")


def stack(hps: Sequence[HP]) -> HP:
    """One `HP` with float32 leaves `[S]` from `S` of one structure.

    Raises:
        ValueError: structures differ: such sessions cannot share a program.
    """
    if len({jax.tree.structure(hp) for hp in hps}) > 1:
        raise ValueError("hyperparameters of different structure cannot share a program")
    return jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *hps)


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _on_host(x: Array) -> np.ndarray:
    """An array as NumPy has it: on a CPU not copied."""
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _put(x: Any, rows: np.ndarray, device: Any) -> Array:
    if _is_key(x):
        return jax.random.wrap_key_data(_put(jax.random.key_data(x), rows, device), impl=jax.random.key_impl(x))
    return jax.device_put(np.asarray(x)[rows], device)


def _like(leaf: Array, value: np.ndarray, device: Any) -> Array:
    placed = jax.device_put(value, device)
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else placed
