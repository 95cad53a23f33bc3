"""Times of work on the GPU: medians of CUDA events, the sides in turns, after a warm-up.

Both libraries queue on the legacy default stream, so that one kind of event times either. What is
queued ahead of a timed call keeps the GPU busy while Python prepares that call: so the host's time
is not in the figure, unless it is meant to be (`steps`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import lowgrad
from lowgrad.runtime.cuda.driver import call
from lowgrad.runtime.cuda.memory import Allocation
from lowgrad.runtime.cuda.streams import current_gpu, current_stream

Calls = Mapping[str, Callable[[], Any]]
MIB = 1 << 20


class Clock:
    """Measures with one GPU's events.

    seconds: about how long all sides of one row are timed, and at least `rounds` times each.
    warmup_s: before that, for each side.
    """

    def __init__(
        self,
        *,
        seconds: float = 2.0,
        warmup_s: float = 0.3,
        flush_mib: int = 128,
        rounds: int = 10,
    ) -> None:
        self.seconds, self.warmup_s, self.rounds = seconds, warmup_s, rounds
        nbytes = flush_mib * MIB
        # A copy reads and writes so much: more than twice the second-level cache of any GPU so far.
        self._source = Allocation(current_gpu(), nbytes)
        self._target = Allocation(current_gpu(), nbytes)
        self._nbytes = nbytes
        self._flush_ms: float | None = None

    # --- One kernel, or a few: the cache is cold, the host's time is hidden ---

    def kernels(self, calls: Calls) -> dict[str, float]:
        """Milliseconds of one call of each side, alone on the GPU with a cold cache."""
        ahead = {name: self._flushes_for(f) for name, f in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        end = time.perf_counter() + self.seconds
        rounds = 0
        while rounds < self.rounds or (time.perf_counter() < end and rounds < 1000):
            events = {name: self._queued(f, ahead[name]) for name, f in calls.items()}
            lowgrad.cuda.synchronize()
            for name, (before, after) in events.items():
                times[name].append(before.elapsed_time(after))
            rounds += 1
        return {name: statistics.median(found) for name, found in times.items()}

    def _queued(self, function: Callable[[], Any], flushes: int) -> tuple[Any, Any]:
        for _ in range(flushes):
            self.flush()
        before, after = _event(), _event()
        before.record()
        function()
        after.record()
        return before, after

    def _flushes_for(self, function: Callable[[], Any]) -> int:
        """How many copies take longer than the host needs to queue this call."""
        host_s = self._warm(function)
        return max(1, min(200, round(1.5 * host_s * 1e3 / self.flush_ms + 0.5)))

    @property
    def flush_ms(self) -> float:
        """Milliseconds of one copy that empties the cache."""
        if self._flush_ms is None:
            self.flush()
            before, after = _event(), _event()
            before.record()
            for _ in range(10):
                self.flush()
            after.record()
            lowgrad.cuda.synchronize()
            self._flush_ms = max(before.elapsed_time(after) / 10, 1e-3)
        return self._flush_ms

    def flush(self) -> None:
        """Queue a copy that leaves nothing else in the second-level cache."""
        stream = current_stream().handle
        call("cuMemcpyDtoDAsync", self._target.pointer, self._source.pointer, self._nbytes, stream)

    # --- Whole steps, one after the other: the host's time counts if the GPU waits for it ---

    def steps(self, calls: Calls) -> dict[str, float]:
        """Milliseconds of a step of each side, in runs of several that follow each other."""
        repeats = {}
        for name, function in calls.items():
            self._warm(function)
            repeats[name] = max(1, min(100, round(0.1 / max(_waited_s(function), 1e-6))))
        times: dict[str, list[float]] = {name: [] for name in calls}
        end = time.perf_counter() + self.seconds
        least = (self.rounds + 1) // 2
        while len(next(iter(times.values()))) < least or time.perf_counter() < end:
            for name, function in calls.items():
                times[name].append(_run_ms(function, repeats[name]))
        return {name: statistics.median(found) for name, found in times.items()}

    # --- The host alone ---

    def host_us(self, function: Callable[[], Any], *, calls: int = 300) -> float:
        """Microseconds until a call returns, while the GPU's queue has room."""
        self._warm(function)
        times = []
        for number in range(calls):
            if number % 20 == 0:
                lowgrad.cuda.synchronize()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        lowgrad.cuda.synchronize()
        return statistics.median(times) * 1e6

    def _warm(self, function: Callable[[], Any]) -> float:
        """Call it for a while; the least seconds in which one call returned."""
        least, end = float("inf"), time.perf_counter() + self.warmup_s
        rounds = 0
        while rounds < min(3, self.rounds) or (time.perf_counter() < end and rounds < 1000):
            start = time.perf_counter()
            function()
            least = min(least, time.perf_counter() - start)
            lowgrad.cuda.synchronize()  # an empty queue, so that the next call does not wait
            rounds += 1
        return least


def _event() -> Any:
    return lowgrad.cuda.Event(enable_timing=True)


def _waited_s(function: Callable[[], Any]) -> float:
    lowgrad.cuda.synchronize()
    start = time.perf_counter()
    function()
    lowgrad.cuda.synchronize()
    return time.perf_counter() - start


def _run_ms(function: Callable[[], Any], repeats: int) -> float:
    before, after = _event(), _event()
    before.record()
    for _ in range(repeats):
        function()
    after.record()
    lowgrad.cuda.synchronize()
    return float(before.elapsed_time(after)) / repeats
