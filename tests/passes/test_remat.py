"""Rematerialisation: the same bits, less at the peak, and the cut is the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import steps
from passes.steps import arrays_for

from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, float32
from lowgrad.ir.verify import verify
from lowgrad.passes import remat as module
from lowgrad.passes.cost import work_of
from lowgrad.passes.order import highest, peak_bytes
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.passes.remat import remat, rematerialize, single_steps
from lowgrad.passes.trades import Trades

STEPS = {"classifier": steps.classifier, "gpt": steps.gpt}
every_step = pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)


def final(make) -> Graph:
    return next(reversed(run_pipeline(make()).values()))


@pytest.mark.parametrize("weight", [0.5, 5.0, 500.0])
@every_step
def test_not_a_bit_changes_and_the_peak_does_not_rise(make, weight):
    graph = final(make)
    arrays = arrays_for(graph)

    after = remat(Trades(remat=weight))(graph)

    verify(after)
    assert peak_bytes(after) <= peak_bytes(graph)
    for got, want in zip(interpret(after, *arrays), interpret(graph, *arrays), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_transformer_takes_less():
    graph = final(steps.gpt)

    assert peak_bytes(remat(Trades(remat=5.0))(graph)) < 0.9 * peak_bytes(graph)


@every_step
def test_state_is_written_once(make):
    graph = final(make)
    written = {graph.outputs[o] for o in graph.aliases}
    makers = [n for n in graph.nodes if not written.isdisjoint(n.outputs)]

    again = rematerialize(graph, highest(graph)[1], 1e6)

    copied = [n for n in again.repeated if any(n.attrs is m.attrs for m in makers)]
    assert copied == []


def test_an_activation_costs_no_second_product():
    graph = final(steps.classifier)
    regions = [n for n in graph.nodes if n.op.name == "fused" and len(n.outputs) > 1]
    assert regions

    for region in regions:
        parts = single_steps(region)
        products = [sum(m.op.name == "matmul" for m in p.attrs["body"].nodes) for p in parts]
        assert [p.outputs for p in parts] != [region.outputs]
        assert sum(products) <= max(1, len([p for p in products if p]))


# --- The cut -----------------------------------------------------------------------------------


@st.composite
def chains(draw):
    """A graph of sums of earlier values, of several sizes, and who reads what in the end."""
    builder = Builder()
    values = [builder.input(TensorType((4,), float32))]
    count = draw(st.integers(2, 6))
    for _ in range(count):
        x = values[draw(st.integers(0, len(values) - 1))]
        size = draw(st.sampled_from((1, 4, 16)))
        made = x.call("sum", dims=(0,)) if x.shape != (1,) else x * 2.0
        values.append(made.call("expand", shape=(size,)) + 1.0 if size > 1 else made + 1.0)
    readers = draw(st.lists(st.integers(1, count), min_size=1, max_size=3, unique=True))
    late = [values[r].call("exp") for r in readers]
    return builder.graph(tuple(t.value for t in late)), len(readers)


@settings(max_examples=30, deadline=None)
@given(chains(), st.floats(0.1, 1e6))
def test_no_other_choice_is_cheaper(drawn, weight):
    graph, readers = drawn
    cut = module._Cut(graph, len(graph.nodes) - 1 - readers, weight)
    chosen = frozenset(n for n in cut._run_again())

    best = min(_price(cut, frozenset(c)) for c in _subsets(cut.steps))

    # Capacities are rounded to integers.
    assert _price(cut, chosen) <= best * 1.001 + 1e-6


def _subsets(nodes):
    return itertools.chain.from_iterable(
        itertools.combinations(nodes, n) for n in range(min(len(nodes), 5) + 1)
    )


def _price(cut, again) -> float:
    """What it costs to run `again` again, and to keep all else that is then needed."""
    needed = {v for n in cut.after for v in n.inputs if v in cut.maker}
    needed |= {v for n in again for v in n.inputs if v in cut.maker}
    kept = [v for v in needed if cut.maker[v] not in again]
    if any(cut.maker[v].op.name == "reshape" for v in kept):
        return float("inf")
    return sum(work_of(n).price for n in again) + sum(map(cut._size, kept))
