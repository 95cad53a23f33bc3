"""Offsets in the arena: no overlap, alignment, and close to the optimum where that is known."""

from __future__ import annotations

import random

import pytest
from ortools.sat.python import cp_model
from passes import steps

from lowgrad.errors import VerifyError
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.runtime import arena
from lowgrad.runtime.arena import ALIGNMENT, Span, check, place
from lowgrad.runtime.memory import plan

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
    """The least arena there is, by OR-tools' CP-SAT: rectangles in time and bytes, none on another.

    The most that is proved to be needed, if the solver gives up first.
    """
    model = cp_model.CpModel()
    sizes = [-(-s.nbytes // ALIGNMENT) for s in spans]
    top = -(-place(spans).arena_bytes // ALIGNMENT)
    height = model.new_int_var(0, top, "height")
    times, bytes_ = [], []
    for span, size in zip(spans, sizes, strict=True):
        at = model.new_int_var(0, top - size, f"at {span.name}")
        times.append(model.new_fixed_size_interval_var(span.first, span.last + 1 - span.first, ""))
        bytes_.append(model.new_fixed_size_interval_var(at, size, ""))
        model.add(at + size <= height)
    model.add_no_overlap_2d(times, bytes_)
    model.minimize(height)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1  # with a fixed order of search: the same result every time
    solver.parameters.max_deterministic_time = 4.0
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE), solver.status_name()
    return round(solver.best_objective_bound) * ALIGNMENT


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


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_close_for_more_lifetimes_than_orders_can_be_tried(seed):
    spans = lifetimes(24, 16, 8, seed)

    found, best = place(spans), optimum(spans)

    assert found.lower_bound_bytes <= best <= found.arena_bytes <= best * WITHIN


@pytest.mark.parametrize("make", [steps.classifier, steps.gpt], ids=["classifier", "gpt"])
def test_the_arena_of_a_training_step_is_within_a_hundredth_of_the_optimum(make):
    held = plan(list(run_pipeline(make()).values())[-1])
    inside = [b for b in held.buffers if b.offset < held.held_bytes]
    spans = [Span(b.name, b.nbytes, b.first, b.last) for b in inside]

    assert held.held_bytes <= 1.01 * optimum(spans)


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
