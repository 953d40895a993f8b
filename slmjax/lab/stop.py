"""Ctrl-C and SIGTERM as a request that the loop grants at its next visit."""

import signal
from types import FrameType, TracebackType

EXIT_RESUMABLE = 75  # EX_TEMPFAIL: stopped on request, continue with --resume


class StopRequest:
    """A context in which the first of some signals sets `requested`, and a second one interrupts at once."""

    def __init__(self, *signals: int) -> None:
        """Outside the main thread signals cannot be caught; `requested` then stays False."""
        self.requested, self._signals = False, signals
        self._before: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> "StopRequest":
        for number in self._signals:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                return self
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
