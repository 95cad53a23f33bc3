"""Offsets in the arena: no overlap, alignment, and close to the optimum where that is known."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from lowgrad.errors import VerifyError
from lowgrad.runtime import arena
from lowgrad.runtime.arena import ALIGNMENT, Span, check, place

# The most that greedy placement may take beyond the optimum on small random lifetimes.
WITHIN = 1.25


def lifetimes(count: int, steps: int, longest: int, seed: int) -> list[Span]:
    """Random spans: sizes over five orders of magnitude, most of them no multiple of 64."""
    draw = random.Random(seed)
    spans = []
    for index in range(count):
        first = draw.randrange(steps)
        last = min(steps - 1, first + draw.randrange(longest))
        spans.append(Span(f"s{index}", int(10 ** draw.uniform(0, 5)), first, last))
    return spans


def optimum(spans: list[Span]) -> int:
    """The least arena there is, by trying all orders.

    In the order of their offsets in an optimal placement, each put as low as it fits lies no
    higher than there: so one of the orders gives the optimum.
    """
    sizes = [-(-s.nbytes // ALIGNMENT) * ALIGNMENT for s in spans]
    best = sum(sizes)
    for order in permutations(range(len(spans))):
        best = min(best, _height(order, sizes, spans, best))
    return best


def _height(order: tuple[int, ...], sizes: list[int], spans: list[Span], limit: int) -> int:
    placed: list[tuple[int, int, Span]] = []
    height = 0
    for index in order:
        span, at = spans[index], 0
        for low, high, other in sorted(placed, key=lambda p: p[0]):
            meet = other.first <= span.last and span.first <= other.last
            if meet and low < at + sizes[index] and at < high:
                at = high
        placed.append((at, at + sizes[index], span))
        height = max(height, at + sizes[index])
        if height >= limit:
            return limit
    return height


@pytest.mark.parametrize("longest", [1, 5, 60])
@pytest.mark.parametrize("seed", range(10))
def test_random_lifetimes_share_no_byte(seed, longest):
    spans = lifetimes(67, 60, longest, seed)

    found = place(spans)

    check(spans, found)
    assert found.lower_bound_bytes <= found.arena_bytes


@pytest.mark.slow
def test_a_hundred_thousand_random_lifetimes_share_no_byte():
    for seed in range(50):
        spans = lifetimes(2000, 1500, 40, seed)
        check(spans, place(spans))


@pytest.mark.parametrize("seed", range(40))
def test_greedy_is_close_to_the_optimum_and_never_below(seed):
    spans = lifetimes(6, 6, 4, seed)

    found, best = place(spans), optimum(spans)

    assert found.lower_bound_bytes <= best <= found.arena_bytes <= best * WITHIN


def too_small_a_gap(lows, highs, size, gap):
    return right_place_one(lows, highs, size - ALIGNMENT, gap)


right_greedy, right_place_one = arena._greedy, arena._place_one

BUGS = {
    "a gap too small": ("_place_one", too_small_a_gap),
    "dead a step early": ("_greedy", lambda o, s, f, t, g: right_greedy(o, s, f, t - 1, g)),
    "made a step late": ("_greedy", lambda o, s, f, t, g: right_greedy(o, s, f + 1, t, g)),
    "sizes halved": ("_greedy", lambda o, s, f, t, g: right_greedy(o, s // 2, f, t, g)),
    "no alignment": ("_aligned", lambda sizes, alignment: sizes),
    "aligned to half": ("_aligned", lambda sizes, alignment: -(-sizes // 32) * 32),
    "the last one forgotten": (
        "_greedy",
        lambda o, s, f, t, g: right_greedy(o, s, f, t, g) * (s != s[-1]),
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_in_the_placement_is_caught(name, monkeypatch):
    spans = lifetimes(67, 60, 20, 0)
    check(spans, place(spans))

    monkeypatch.setattr(arena, *BUGS[name])

    with pytest.raises(VerifyError, match="memory plan"):
        check(spans, place(spans))
