"""Offsets in one arena: buffers that live at the same time never share a byte.

Placing buffers optimally is NP-hard (it is dynamic storage allocation); greedy in a few orders
comes within a few percent on training steps, whose lifetimes nest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lowgrad.errors import VerifyError

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
# Above this many buffers only the order that is usually best is tried: each costs n * conflicts.
MANY = 4000

Ints = npt.NDArray[np.int64]
# Of the gaps that fit (positions in the second argument, the sizes), the one to take.
Gap = Callable[[Ints, Ints], int]


@dataclass(frozen=True)
class Span:
    """One buffer before placement: its size, and the first and last step at which it is live."""

    name: str
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Placement:
    """Byte offsets, one a span. `lower_bound_bytes` is the most that is live at any one step."""

    offsets: tuple[int, ...]
    arena_bytes: int
    lower_bound_bytes: int


def place(spans: Sequence[Span], *, alignment: int = ALIGNMENT) -> Placement:
    """Greedy, in several orders and two fits; the best is kept. Offsets are aligned."""
    if not spans:
        return Placement((), 0, 0)
    sizes = _aligned(np.array([s.nbytes for s in spans], np.int64), alignment)
    first = np.array([s.first for s in spans], np.int64)
    last = np.array([s.last for s in spans], np.int64)
    bound = _most_live(sizes, first, last)
    best: Ints | None = None
    best_bytes = 0
    for gap, order in _ways(sizes, first, last):
        offsets = _greedy(order, sizes, first, last, gap)
        total = int((offsets + sizes).max())
        if best is None or total < best_bytes:
            best, best_bytes = offsets, total
        if best_bytes == bound:
            break
    assert best is not None, "there is at least one order"
    return Placement(tuple(best.tolist()), best_bytes, bound)


def _aligned(sizes: Ints, alignment: int) -> Ints:
    return -(-sizes // alignment) * alignment


def _most_live(sizes: Ints, first: Ints, last: Ints) -> int:
    change = np.zeros(int(last.max()) + 2, np.int64)
    np.add.at(change, first, sizes)
    np.subtract.at(change, last + 1, sizes)
    return int(change.cumsum().max())


def _ways(sizes: Ints, first: Ints, last: Ints) -> Iterator[tuple[Gap, Ints]]:
    """What to try, the usually best first: best-fit in each order, then first-fit."""
    orders = _orders(sizes, first, last)
    for gap in (_smallest_gap, _lowest_gap) if len(sizes) <= MANY else (_smallest_gap,):
        for order in orders:
            yield gap, order


def _orders(sizes: Ints, first: Ints, last: Ints) -> list[Ints]:
    lifetime = last - first + 1
    by_size = np.lexsort((first, -sizes))
    if len(sizes) > MANY:
        return [by_size]
    by_area = np.lexsort((first, -(sizes * lifetime)))
    by_lifetime = np.lexsort((first, -sizes, -lifetime))
    by_start = np.lexsort((-sizes, first))
    return [by_size, by_area, by_lifetime, by_start]


def _greedy(order: Ints, sizes: Ints, first: Ints, last: Ints, gap: Gap) -> Ints:
    """Each span in turn goes into the gap that `gap` takes, among those it lives with."""
    count = len(order)
    offsets = np.zeros(count, np.int64)
    starts, stops = np.empty(count, np.int64), np.empty(count, np.int64)  # of placed spans, in time
    lows, highs = np.empty(count, np.int64), np.empty(count, np.int64)  # and in bytes
    for placed, index in enumerate(order.tolist()):
        conflicts = (starts[:placed] <= last[index]) & (stops[:placed] >= first[index])
        at = _place_one(lows[:placed][conflicts], highs[:placed][conflicts], sizes[index], gap)
        offsets[index] = at
        starts[placed], stops[placed] = first[index], last[index]
        lows[placed], highs[placed] = at, at + sizes[index]
    return offsets


def _place_one(lows: Ints, highs: Ints, size: int, gap: Gap) -> int:
    """The offset of a gap between the taken ranges that holds `size` bytes, or above them all."""
    if len(lows) == 0:
        return 0
    order = np.argsort(lows, kind="stable")
    lows, highs = lows[order], np.maximum.accumulate(highs[order])
    begins = np.concatenate((np.zeros(1, np.int64), highs[:-1]))
    gaps = lows - begins
    fits = np.flatnonzero(gaps >= size)
    if len(fits) == 0:
        return int(highs[-1])
    return int(begins[gap(fits, gaps)])


def _smallest_gap(fits: Ints, gaps: Ints) -> int:
    return int(fits[np.argmin(gaps[fits])])


def _lowest_gap(fits: Ints, gaps: Ints) -> int:
    return int(fits[0])


def check(spans: Sequence[Span], placement: Placement, *, alignment: int = ALIGNMENT) -> None:
    """Raise VerifyError if two spans that live at once share a byte, or one lies outside."""
    order = sorted(range(len(spans)), key=lambda i: spans[i].first)
    live: list[int] = []
    for index in order:
        span, at = spans[index], placement.offsets[index]
        if at < 0 or at % alignment or at + span.nbytes > placement.arena_bytes:
            raise VerifyError(f"memory plan: {span.name} at {at} does not lie in the arena")
        live = [i for i in live if spans[i].last >= span.first]
        for other in live:
            low = placement.offsets[other]
            if at < low + spans[other].nbytes and low < at + span.nbytes:
                raise VerifyError(
                    f"memory plan: {span.name} and {spans[other].name} live at the same time "
                    f"and share bytes ({at} and {low})"
                )
        live.append(index)
