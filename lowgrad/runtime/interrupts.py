"""Ctrl-C while state is being written: it waits until all of it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a first Ctrl-C is kept for the end; a second one is not.

    Elsewhere than in the main thread nothing is done: Python interrupts no other thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is None or not callable(before):
        yield  # nobody in Python is told of it
        return
    kept: list[tuple[int, Any]] = []

    def keep(number: int, frame: Any) -> None:
        if kept:
            signal.signal(signal.SIGINT, before)
            before(number, frame)
        kept.append((number, frame))

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if kept:
        before(*kept[0])
