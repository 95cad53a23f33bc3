"""One lock for all that goes through Triton in this process.

Triton's interpreter replaces functions of `triton.language` while a kernel runs, and its compiler
reads the same functions. So kernels are interpreted one at a time and never while one compiles;
compilations may overlap.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class SharedLock:
    """Held by many sharers or by one owner. Waiting owners go first, so sharers cannot starve them.

    Neither side may be taken again by a thread that holds the lock.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharers = 0
        self._owned = False
        self._owners_waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other sharers."""
        with self._changed:
            self._changed.wait_for(lambda: not self._owned and self._owners_waiting == 0)
            self._sharers += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharers -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._changed:
            self._owners_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._owned and self._sharers == 0)
                self._owned = True
            finally:
                self._owners_waiting -= 1
                self._changed.notify_all()  # if the wait was interrupted, sharers may go on
        try:
            yield
        finally:
            with self._changed:
                self._owned = False
                self._changed.notify_all()


language_lock = SharedLock()
