"""Running the chunks of a loop on a few threads. Chunks are fixed, so results are too."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from lowgrad import config
from lowgrad.runtime.cpu.chunks import THREADS

Chunk = Callable[[int, int, int, Any], None]


@lru_cache(maxsize=1)
def threads() -> int:
    """How many threads share a loop: LOWGRAD_THREADS, or what the machine and the scratch allow."""
    wanted = config.settings().threads or os.cpu_count() or 1
    return max(1, min(THREADS, wanted))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS - 1, thread_name_prefix="lowgrad")


def run_chunks(chunk: Chunk, size: int, rows: int, slots: Sequence[Any]) -> None:
    """chunk(lo, hi, k, slots) for each k-th piece of `rows` rows; each thread has its own slots."""
    count = min(threads(), len(slots))
    if count == 1:
        for k in range(-(-size // rows)):
            chunk(k * rows, min((k + 1) * rows, size), k, slots[0])
        return

    def worker(index: int) -> None:
        with np.errstate(all="ignore"):  # a thread has an error state of its own
            for k in range(index, -(-size // rows), count):
                chunk(k * rows, min((k + 1) * rows, size), k, slots[index])

    others = [_pool().submit(worker, i) for i in range(1, count)]
    try:
        worker(0)
    finally:
        for other in others:
            other.result()
