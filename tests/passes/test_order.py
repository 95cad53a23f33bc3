"""The order of kernels: low peak, and old state read before it is overwritten."""

from __future__ import annotations

import numpy as np
import pytest
from passes import steps
from strategies import same_bits

from lowgrad.errors import CompileError
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, float32
from lowgrad.passes import pipeline
from lowgrad.passes.base import graph_pass
from lowgrad.passes.order import order, peak_bytes
from lowgrad.passes.pipeline import PIPELINE, run_pipeline

VECTOR = TensorType((256,), float32)


def position(graph, value) -> int:
    return next(i for i, n in enumerate(graph.nodes) if value in n.outputs)


def late_readers(graph) -> list[int]:
    """The aliased outputs whose old value is read after the new one is made."""
    found = []
    for output, state in graph.aliases.items():
        made = position(graph, graph.outputs[output])
        if any(graph.inputs[state] in n.inputs for n in graph.nodes[made + 1 :]):
            found.append(output)
    return found


def test_readers_of_old_state_run_before_its_update():
    b = Builder()
    state = b.input(VECTOR, "state")
    new = state.call("exp")
    reader = state.call("sin")
    graph = b.graph((new.value, reader.value), {0: 0})

    assert late_readers(graph) == [0]
    assert late_readers(order(graph)) == []


@pytest.mark.parametrize("make", [steps.classifier, steps.gpt], ids=["classifier", "gpt"])
def test_whole_steps_update_their_state_in_place(make):
    assert late_readers(run_pipeline(make(), verify=True)["order"]) == []


def test_state_that_is_swapped_keeps_one_copy():
    b = Builder()
    one, two = b.input(VECTOR, "one"), b.input(VECTOR, "two")
    graph = b.graph((two.call("exp").value, one.call("exp").value), {0: 0, 1: 1})

    assert len(late_readers(order(graph))) == 1


def test_a_reader_that_needs_the_update_runs_after_it():
    b = Builder()
    state = b.input(VECTOR, "state")
    new = state.call("exp")
    graph = b.graph((new.value, (new + state).value), {0: 0})
    x = np.ones(256, np.float32)

    after = order(graph)

    pairs = zip(interpret(after, x), interpret(graph, x), strict=True)
    assert all(same_bits(a, b) for a, b in pairs)


def test_what_frees_memory_runs_early():
    b = Builder()
    x = b.input(VECTOR)
    large = [(x * float(i)).call("exp") for i in range(8)]
    sums = [v.call("sum", dims=(0,)) for v in large]  # recorded after all of `large`
    graph = b.graph(tuple(s.value for s in sums))

    assert peak_bytes(graph) > 8 * VECTOR.nbytes
    assert peak_bytes(order(graph)) < 4 * VECTOR.nbytes


@pytest.mark.parametrize("make", [steps.classifier, steps.gpt], ids=["classifier", "gpt"])
def test_ordering_never_raises_the_peak(make):
    graphs = run_pipeline(make())

    assert peak_bytes(graphs["order"]) <= peak_bytes(graphs["fuse"])


def test_a_pass_that_fails_is_named(monkeypatch):
    @graph_pass("broken", exact=True)
    def broken(graph):
        raise KeyError("lost")

    monkeypatch.setattr(pipeline, "LOWER", (broken,))

    with pytest.raises(CompileError, match=r"pass broken failed on classifier: KeyError\('lost'\)"):
        run_pipeline(steps.classifier())


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch):
    @graph_pass("careless", exact=True)
    def careless(graph):
        return graph.with_nodes(graph.nodes[1:])

    monkeypatch.setattr(pipeline, "LOWER", (careless,))

    with pytest.raises(CompileError, match="pass careless failed"):
        run_pipeline(steps.classifier(), verify=True)


def test_graphs_come_back_in_the_order_of_the_passes():
    names = [p.name for p in PIPELINE]
    seen = []

    graphs = run_pipeline(steps.classifier(), on_pass=lambda p, *_: seen.append(p.name))

    assert list(graphs) == ["trace", *names]
    assert seen == names
    assert "fuse" not in run_pipeline(steps.classifier(), fuse=False)
