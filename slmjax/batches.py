"""A function of a batch, compiled once a device and run over all batches by threads."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import jax

Result = TypeVar("Result")


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
