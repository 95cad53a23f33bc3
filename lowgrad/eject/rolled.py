"""The unrolled calls of a schedule as loops again: repetitions whose addresses go on evenly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lowgrad.codegen.cuda.schedule import At, Call, KernelCall

# A loop's piece has no more calls than this; longer ones stay unrolled.
LONGEST = 48
# So few calls in all are as easily read one by one.
FEWEST = 6


@dataclass(frozen=True)
class Roll:
    """`calls`, run `times` times; the addresses of each go on by `strides` bytes a time."""

    calls: tuple[Call, ...]
    times: int
    strides: tuple[tuple[int, ...], ...]


def rolled(calls: Sequence[Call]) -> Iterator[Roll]:
    """The same calls in the same order."""
    at = 0
    while at < len(calls):
        found = max(_rolls_at(calls, at), key=lambda r: len(r.calls) * (r.times - 1), default=None)
        if found is None or len(found.calls) * found.times < FEWEST:
            call = calls[at]
            found = Roll((call,), 1, ((0,) * len(addresses_of(call)),))
        yield found
        at += len(found.calls) * found.times


def addresses_of(call: Call) -> tuple[At, ...]:
    """All addresses of a call, in order."""
    return call.addresses if isinstance(call, KernelCall) else (call.target, call.source)


def _rolls_at(calls: Sequence[Call], at: int) -> Iterator[Roll]:
    for length in range(1, min(LONGEST, (len(calls) - at) // 2) + 1):
        strides = _strides(calls, at, at + length, length)
        if strides is None:
            continue
        times = 2
        while _strides(calls, at + (times - 1) * length, at + times * length, length) == strides:
            times += 1
        yield Roll(tuple(calls[at : at + length]), times, strides)


def _strides(
    calls: Sequence[Call], one: int, other: int, length: int
) -> tuple[tuple[int, ...], ...] | None:
    """How far each address of the calls from `one` on is from its like; None if they differ."""
    if other + length > len(calls):
        return None
    found = []
    for a, b in zip(calls[one : one + length], calls[other : other + length], strict=True):
        if not _is_alike(a, b):
            return None
        pairs = list(zip(addresses_of(a), addresses_of(b), strict=True))
        if any(x.base != y.base for x, y in pairs):
            return None
        found.append(tuple(y.offset - x.offset for x, y in pairs))
    return tuple(found)


def _is_alike(a: Call, b: Call) -> bool:
    if isinstance(a, KernelCall) and isinstance(b, KernelCall):
        return a.kernel is b.kernel
    if isinstance(a, KernelCall) or isinstance(b, KernelCall):
        return False
    sizes = [(c.width, c.rows, c.target_pitch, c.source_pitch) for c in (a, b)]
    return sizes[0] == sizes[1]
