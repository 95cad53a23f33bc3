"""Why fusion did what it did: each kernel and each value between kernels has its decision."""

from __future__ import annotations

import pytest
from passes import steps
from passes.test_fuse import graph_of

from lowgrad.errors import Location
from lowgrad.explain import Explanation
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph, Value
from lowgrad.ir.types import TensorType, float32, int64
from lowgrad.passes import fusions
from lowgrad.passes.decisions import Decision
from lowgrad.passes.fuse import fuse
from lowgrad.passes.pipeline import run_pipeline

MATRIX = TensorType((64, 128), float32)
SQUARE = TensorType((64, 64), float32)
MATRIX_BYTES = 64 * 128 * 4


def decisions(graph: Graph) -> list[Decision]:
    return list(fuse.explain(graph))


def refused(graph: Graph) -> list[tuple[tuple[str, ...], str]]:
    return [(d.ops, d.reason) for d in decisions(graph) if not d.is_made]


@pytest.mark.parametrize("make", [steps.classifier, steps.gpt], ids=["classifier", "gpt"])
def test_every_region_and_every_value_between_kernels_has_a_decision(make):
    graphs = run_pipeline(make())
    before, after = graphs["cse"], graphs["fuse"]

    found = decisions(before)

    regions = [n for n in after.nodes if n.op.name == "fused"]
    made = [d for d in found if d.is_made and d.reason != fusions.AGAIN]
    # A region of one node and the views that it reads through is no decision.
    assert 3 < len(made) <= len(regions)
    produced = {v for n in after.nodes for v in n.outputs}
    between = {
        (n.outputs[0], v)
        for n in steps.kernels(after)
        for v in n.inputs
        if v in produced and not _is_argument(after, v)
    }
    assert len([d for d in found if not d.is_made]) == len(between)


def _is_argument(graph: Graph, value: Value) -> bool:
    """Whether `value` is an input, perhaps under another shape."""
    shaped = {n.output: n.inputs[0] for n in graph.nodes if n.op.name == "reshape"}
    return shaped.get(value, value) in graph.inputs


def test_what_stays_on_the_chip_is_neither_written_nor_read():
    graph = graph_of(lambda x: (x * 2.0).call("exp") + x, MATRIX)

    (made,) = decisions(graph)

    assert (made.by, made.is_made, made.ops) == ("fuse", True, ("mul", "exp", "add"))
    assert made.nbytes == 4 * MATRIX_BYTES


def test_a_value_with_one_reader_would_not_be_written_and_not_be_read():
    graph = graph_of(lambda x, y: (x.call("matmul", y)).call("matmul", y), SQUARE, SQUARE)

    (apart,) = decisions(graph)

    assert (apart.is_made, apart.ops, apart.reason) == (False, ("matmul",) * 2, fusions.OPERAND)
    assert apart.nbytes == 2 * 64 * 64 * 4


def test_a_value_that_is_kept_anyway_would_only_not_be_read():
    def both(x, y):
        first = x.call("matmul", y)
        return first, first.call("matmul", y)

    (apart,) = decisions(graph_of(both, SQUARE, SQUARE))

    assert apart.nbytes == 64 * 64 * 4


def test_what_is_cheaper_to_compute_again_says_so():
    def two_readers(x):
        y = x + 1.0
        return y.call("max", dims=(0,)), y.call("sum", dims=(1,))

    found = decisions(graph_of(two_readers, MATRIX))

    assert fusions.AGAIN in [d.reason for d in found if d.is_made]


def transposed(x):
    return x.call("permute", dims=(1, 0))


def cycle(x, w):
    """The sum of both needs x + 1 twice: once through a product."""
    y = x.call("exp")
    return y.call("matmul", w).call("sum", dims=(1,)) + y.call("sum", dims=(1,))


REFUSALS = {
    fusions.OPERAND: lambda x: x.call("exp").call("matmul", x),
    fusions.REDUCES: lambda x: x.call("matmul", x).call("sum", dims=(1,)),
    fusions.PRODUCTS: lambda x: x.call("matmul", x) + x.call("exp").call("matmul", x),
    fusions.SPACES: lambda x: x.call("sum", dims=(1,)).call("sum", dims=(0,)),
    fusions.ORDER: lambda x: (
        x.call("exp").call("sum", dims=(1,)).call("flip", dims=(0,)).call("exp")
    ),
    fusions.CYCLE: lambda x: cycle(x, x),
}


@pytest.mark.parametrize("reason", REFUSALS, ids=[r[:20] for r in REFUSALS])
def test_a_refusal_says_why(reason):
    assert reason in [why for _, why in refused(graph_of(REFUSALS[reason], SQUARE))]


def centred(x):
    return x - x.call("sum", dims=(0,)).call("expand", shape=x.shape)


def test_few_long_columns_are_summed_apart():
    ((ops, why),) = refused(graph_of(centred, TensorType((1 << 16, 2), float32)))[:1]

    assert why == fusions.TALL
    assert ops[0] == "sum"


def test_few_long_rows_are_one_kernel():
    assert refused(graph_of(steps.softmax, TensorType((2, 1 << 16), float32))) == []


def test_a_scatter_is_a_kernel_of_its_own():
    def scattered(x, at):
        return x.call("exp").call("index_add", at, x, dim=0).call("exp")

    found = refused(graph_of(scattered, MATRIX, TensorType((64,), int64)))

    assert [why for _, why in found] == ["index_add is a kernel of its own"] * 2


def test_an_explanation_names_the_line_and_counts_what_is_alike():
    builder = Builder()
    x = builder.input(SQUARE, "x")
    results = []
    for _ in range(3):
        with builder.at(Location("model.py", 14, "forward")):
            x = x.call("matmul", x)
            results.append(x)
    graph = builder.graph((x.value,))

    text = str(Explanation(tuple(decisions(graph))))

    assert text.splitlines() == [
        "made: 0, 0 B through memory",
        "refused: 2, 64.00 KiB through memory",
        "   64.00 KiB  fuse: 2 x matmul -> matmul: a product reads its operands once for each "
        "tile, and would compute this each time, at model.py:14, in forward",
    ]


def test_compiling_explains_nothing():
    assert "explain" not in fuse.run.__code__.co_names
