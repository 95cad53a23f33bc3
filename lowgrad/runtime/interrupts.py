"""Ctrl-C while state is being written: it waits until all of it is."""

from __future__ import annotations

# The module behind `signal`, without the enums that make each of its calls several times slower:
# this is done at every step.
import _signal  # type: ignore[import-not-found]
import threading
from typing import Any

_INTERRUPT = int(_signal.SIGINT)


class deferred:  # noqa: N801 - used like a function
    """Inside, a first Ctrl-C is kept for the end; a second one is not.

    Elsewhere than in the main thread nothing is done: Python interrupts no other thread.
    """

    __slots__ = ("_before", "_kept")

    def __enter__(self) -> None:
        self._kept: tuple[int, Any] | None = None
        self._before: Any = None
        if threading.current_thread() is not threading.main_thread():
            return
        before = _signal.getsignal(_INTERRUPT)
        if callable(before):  # else nobody in Python is told of it
            self._before = before
            _signal.signal(_INTERRUPT, self._keep)

    def _keep(self, number: int, frame: Any) -> None:
        if self._kept is not None:
            _signal.signal(_INTERRUPT, self._before)
            self._before(number, frame)
        self._kept = (number, frame)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        _signal.signal(_INTERRUPT, self._before)
        if self._kept is not None:
            self._before(*self._kept)
