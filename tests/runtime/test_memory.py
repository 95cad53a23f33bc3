"""The memory plan: what it counts, what it calls things, and that wrong plans are noticed."""

from __future__ import annotations

import gc
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from models import classifier, dropout_clipped, gelu_adam
from passes import steps

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim
from lowgrad.errors import VerifyError
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, float32
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.runtime import arena, memory
from lowgrad.runtime.arena import Placement, Span, check
from lowgrad.runtime.cpu.program import build
from lowgrad.runtime.memory import plan

MODELS = {"classifier": classifier, "gelu_adam": gelu_adam, "dropout_clipped": dropout_clipped}
SQUARE = TensorType((64, 64), float32)


def planned(model):
    step, batch = MODELS[model]()
    return lowgrad.compile(step).lower(*batch)


@pytest.mark.parametrize("model", MODELS)
def test_the_parts_add_up_and_the_arena_is_tight(model):
    step = planned(model)
    found = step.plan

    state = {step.graph.inputs[i] for i in step.graph.aliases.values()}
    given = [v for v in step.graph.inputs if v not in state]
    assert found.state_bytes == sum(v.type.nbytes for v in state)
    assert found.argument_bytes == sum(v.type.nbytes for v in given)
    assert found.peak_bytes == found.state_bytes + found.argument_bytes + found.arena_bytes
    assert found.lower_bound_bytes <= found.arena_bytes <= 1.01 * found.lower_bound_bytes
    assert step.executable.arena.nbytes == found.held_bytes


def test_the_plan_says_that_clipped_gradients_wait():
    clipped, free = planned("dropout_clipped").plan, planned("gelu_adam").plan

    (note,) = clipped.notes
    assert "gradients" in note
    assert "none dies at its own update" in note
    assert f"note      {note}" in str(clipped)
    assert free.notes == ()


def counted(make):
    """(what `make` returns, the bytes that NumPy allocated for it and still holds)."""
    gc.collect()
    tracemalloc.start()
    made = make()
    own = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    taken = tracemalloc.take_snapshot().filter_traces([own])
    tracemalloc.stop()
    return made, sum(t.size for t in taken.traces)


def returning():
    """A step that returns what it makes twice, a view of it, an argument, and old state."""
    b = Builder()
    x, w = b.input(SQUARE, "x"), b.input(SQUARE, "w")
    y = x.call("matmul", w).call("exp")
    outputs = (y, y.call("permute", dims=(1, 0)), x, w, w * 2.0, y, y.call("sum", dims=(0,)))
    return b.graph(tuple(t.value for t in outputs), {4: 1})


@pytest.mark.parametrize("make", [steps.classifier, steps.gpt, returning], ids=lambda f: f.__name__)
def test_what_is_allocated_is_what_the_plan_says_to_the_byte(make):
    graph = list(run_pipeline(make()).values())[-1]
    found = plan(graph)
    given = [np.array(a) for a in steps.arrays_for(graph)]

    run, held_bytes = counted(lambda: build(graph, found))
    run([a.copy() for a in given])  # what threads keep, they keep from the first call on
    _, result_bytes = counted(lambda: run(given))

    assert held_bytes == found.held_bytes + arena.ALIGNMENT  # to begin where a cache line does
    assert result_bytes == found.arena_bytes - found.held_bytes
    assert sum(b.nbytes for b in found.buffers if b.offset >= found.held_bytes) == result_bytes


def test_results_are_in_the_table():
    text = str(plan(list(run_pipeline(returning()).values())[-1]))

    assert "copy of w" in text
    assert "copy of x" in text


@pytest.mark.parametrize("model", MODELS)
def test_every_buffer_has_a_name_a_place_and_a_line(model):
    found = planned(model).plan

    for buffer in found.buffers:
        assert buffer.name
        assert "fused" not in buffer.name
        assert f"{buffer.name} " in str(found)
    assert all(b.loc is not None for b in found.buffers)


def test_what_an_update_reads_is_named_after_the_state():
    weight = nn.Parameter(lowgrad.randn(24, 8))
    optimizer = optim.SGD([weight], lr=0.1)

    def step(t):
        optimizer.zero_grad()
        loss = F.embedding(t, weight).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    found = lowgrad.compile(step).lower(lowgrad.randint(0, 24, (5,))).plan

    assert "update of weight" in {b.name for b in found.buffers}


# Planted bugs ----------------------------------------------------------------------------------


def chain():
    """A value taken over by another, a view read late, a flip, a product that needs scratch."""
    b = Builder()
    x = b.input(SQUARE, "x")
    doubled = x * 2.0
    late = doubled.call("permute", dims=(1, 0))
    total = doubled + doubled.call("flip", dims=(0,))
    for _ in range(3):
        total = total.call("sin").call("matmul", x)
    mirrored = total.call("matmul", x)
    mirrored = mirrored.call("sin") + mirrored.call("flip", dims=(0,)) * 0.5
    row = mirrored.call("cumsum", dim=0)
    return b.graph(((total + late).value, total.value, row.value))


def holds(graph, fuse):
    """The plan of the step passes the checker, and the step means what the interpreter means."""
    final = list(run_pipeline(graph, fuse=fuse).values())[-1]
    found = plan(final)
    spans = [Span(b.name, b.nbytes, b.first, b.last) for b in found.buffers]
    offsets = tuple(b.offset for b in found.buffers)
    check(spans, Placement(offsets, found.arena_bytes, found.lower_bound_bytes))
    arrays = steps.arrays_for(final)
    expected = interpret(final, *arrays)
    got = build(final, found)([np.array(a, order="C") for a in arrays])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def all_hold():
    for fuse in (False, True):
        holds(chain(), fuse)
        holds(steps.classifier(), fuse)


right_lifetimes, right_place, right_reused = memory._lifetimes, memory.place, memory._reused


class AlwaysDying(dict):
    """The last use of each value is the one that is asked about."""

    def get(self, key, default=None):
        return mock.ANY


def taken_from_the_living(graph, roots, last, *rest):
    return right_reused(graph, roots, AlwaysDying(last), *rest)


def dead_early(graph, roots):
    first, last = right_lifetimes(graph, roots)
    return first, {v: max(first[v], n - 1) for v, n in last.items()}


def views_forgotten(graph, roots):
    first, last = right_lifetimes(graph, roots)
    own = {v: v for v in roots}
    return first, last | {v: n for v, n in right_lifetimes(graph, own)[1].items() if v in last}


def scratch_at_0(spans):
    found = right_place(spans)
    at = [
        0 if s.name.startswith("scratch") else o for s, o in zip(spans, found.offsets, strict=True)
    ]
    return Placement(tuple(at), found.arena_bytes, found.lower_bound_bytes)


def everything_at_0(spans):
    found = right_place(spans)
    return Placement((0,) * len(spans), found.arena_bytes, found.lower_bound_bytes)


BUGS = {
    "dead a node early": (memory, "_lifetimes", dead_early),
    "a view's readers forgotten": (memory, "_lifetimes", views_forgotten),
    "overwritten before the last reader": (memory, "_reused", taken_from_the_living),
    "taken over, and not kept alive": (memory, "_extend", lambda reused, last: None),
    "scratch over an operand": (memory, "place", scratch_at_0),
    "everything at offset 0": (memory, "place", everything_at_0),
    "no alignment": (arena, "_aligned", lambda sizes, alignment: sizes),
}


def test_plans_hold():
    all_hold()


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_in_the_plan_is_caught(name, monkeypatch):
    monkeypatch.setattr(*BUGS[name])

    with pytest.raises((AssertionError, VerifyError)):
        all_hold()
