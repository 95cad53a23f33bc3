"""Which kernels fusion makes, what it must never fuse, and what it saves."""

from __future__ import annotations

import time

import numpy as np
import pytest
from passes import steps
from passes.steps import bytes_moved, kernels
from strategies import same_bits

from lowgrad.errors import VerifyError
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import TensorType, float32, int64
from lowgrad.ir.verify import verify
from lowgrad.passes import dataflow, partition
from lowgrad.passes.fuse import fuse
from lowgrad.passes.in_place import may_overwrite
from lowgrad.passes.partition import Partition
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.passes.sharing import MAX_POINTERS
from lowgrad.passes.views import views

MATRIX = TensorType((64, 128), float32)


def graph_of(function, *types: TensorType) -> Graph:
    b = Builder()
    made = function(*[b.input(t, f"x{i}") for i, t in enumerate(types)])
    outputs = made if isinstance(made, tuple) else (made,)
    return b.graph(tuple(t.value for t in outputs), name="program")


def kinds(graph: Graph) -> list[str]:
    return [n.attrs.get("kind", n.op.name) for n in kernels(graph)]


def inside(node) -> list[str]:
    return [n.op.name for n in node.attrs["body"].nodes]


# --- What becomes one kernel -------------------------------------------------------------------


def test_a_chain_is_one_kernel(golden):
    golden(fuse(graph_of(lambda x: (x * 2.0).call("exp") + x, MATRIX)))


def test_linear_bias_and_activation_are_one_kernel(golden):
    types = TensorType((32, 784), float32), TensorType((128, 784), float32)
    bias = TensorType((128,), float32)

    golden(fuse(graph_of(lambda x, w, b: steps.relu(steps.linear(x, w, b)), *types, bias)))


@pytest.mark.parametrize("function", [steps.softmax, steps.log_softmax])
def test_row_functions_are_one_kernel(function):
    assert kinds(fuse(graph_of(function, MATRIX))) == ["rows"]


def test_layer_norm_is_one_kernel():
    vector = TensorType((128,), float32)

    assert kinds(fuse(graph_of(steps.layer_norm, MATRIX, vector, vector))) == ["rows"]


def test_cross_entropy_and_its_gradient_are_one_kernel_and_a_sum():
    graph = run_pipeline(_cross_entropy_step(), verify=True)["order"]

    by_row, total = kernels(graph)

    assert kinds(graph) == ["rows", "rows"]
    assert [str(v.type) for v in by_row.outputs] == ["f32[64]", "f32[64,10]"]
    assert [str(v.type) for v in total.outputs] == ["f32[1]"]


def _cross_entropy_step() -> Graph:
    step = steps.new_step()
    logits = steps.parameter(step, "logits", 64, 10)
    loss = steps.cross_entropy(logits, step.state(TensorType((64,), int64), "target"))
    step.outputs += [loss, *step.gradients(loss)]
    return step.graph("cross_entropy")


def test_an_update_runs_in_the_kernel_of_its_gradient():
    graph = run_pipeline(steps.classifier(), verify=True)["order"]
    state = {graph.outputs[i] for i in graph.aliases}
    updates = [n for n in kernels(graph) if not state.isdisjoint(n.outputs)]

    assert len(updates) == 3  # each of a weight and its bias
    assert {n.attrs["kind"] for n in updates} == {"matmul"}


def test_a_gradient_that_is_returned_is_written_by_its_product():
    step = steps.new_step()
    x = step.state(TensorType((8, 4), float32), "x")
    weight = steps.parameter(step, "w", 3, 4)
    (g,) = step.gradients(steps.linear(x, weight))
    step.update(weight, weight - g * 0.1)
    step.outputs.append(g)

    graph = run_pipeline(step.graph("step"), verify=True)["order"]

    assert kinds(graph) == ["matmul"]
    assert len(kernels(graph)[0].outputs) == 2


def test_updates_after_clipping_share_kernels():
    graph = run_pipeline(steps.gpt(clip=1.0), verify=True)["order"]

    state = {graph.outputs[i] for i in graph.aliases}
    updates = [n for n in kernels(graph) if not state.isdisjoint(n.outputs)]

    assert sum(len(n.outputs) for n in updates) == 3 * 37
    assert len(updates) <= 4


def test_cheap_producers_are_computed_by_each_reader():
    def program(x):
        half = x * 0.5
        return half.call("sum", dims=(1,)), half.call("permute", dims=(1, 0)).call("exp")

    graph = fuse(graph_of(program, MATRIX))

    assert sorted(kinds(graph)) == ["pointwise", "rows"]
    assert all(node.inputs == graph.inputs for node in graph.nodes)


def test_gelu_writes_its_input_instead_of_four_functions_of_it():
    step = steps.new_step()
    x = step.state(TensorType((64, 32), float32), "x")
    up, down = (steps.parameter(step, n, *s) for n, s in (("up", (128, 32)), ("down", (32, 128))))
    loss = steps.linear(steps.gelu(steps.linear(x, up)), down)
    step.outputs += [loss, *step.gradients(loss)]

    first = kernels(run_pipeline(step.graph("step"), verify=True)["order"])[0]

    assert [str(v.type) for v in first.outputs] == ["f32[64,128]"] * 2


# --- What must stay apart ----------------------------------------------------------------------


def scattered_then_read(base, index, source):
    added = (base * 2.0).call("index_add", index, source.call("exp"), dim=0)
    return added.call("take", index, dim=0) + 1.0


SCATTER = (
    TensorType((8, 4), float32),
    TensorType((5,), int64),
    TensorType((5, 4), float32),
)


def test_a_many_to_one_write_is_a_kernel_of_its_own():
    graph = fuse(graph_of(scattered_then_read, *SCATTER))

    assert "index_add" in [n.op.name for n in graph.nodes]
    assert not any("index_add" in inside(n) for n in graph.nodes if "body" in n.attrs)


def test_a_fused_scatter_would_be_seen(monkeypatch):
    monkeypatch.setattr(dataflow, "_OPAQUE", frozenset())

    graph = fuse(graph_of(scattered_then_read, *SCATTER))

    assert any("index_add" in inside(n) for n in graph.nodes if "body" in n.attrs)


def test_sorts_read_from_memory():
    def program(x):
        values, _ = x.call("permute", dims=(1, 0)).call("sort", dim=1, descending=False)
        return values * 2.0

    assert kinds(fuse(graph_of(program, MATRIX))) == ["permute", "sort", "pointwise"]


def around(x, w):
    """x feeds both ends; between them is a product that needs the first."""
    first = x.call("exp")
    return first + first.call("matmul", w)


SQUARE = TensorType((16, 16), float32)


def test_no_cycle_arises():
    graph = fuse(graph_of(around, SQUARE, SQUARE))

    verify(graph)


def test_a_merge_that_makes_a_cycle_would_be_seen(monkeypatch):
    def careless(self, edges, start, low, high):
        return set()

    monkeypatch.setattr(partition.Partition, "_search", careless)

    def program(x, w):
        first = x.call("exp")
        return (first.call("matmul", w).call("cumsum", dim=0) + first) * 2.0, first

    with pytest.raises(VerifyError):
        verify(fuse(graph_of(program, SQUARE, SQUARE)))


def test_a_short_and_wide_reduction_only_reduces():
    """One row of a million elements: the rest of the chip would wait for one program."""

    def program(x):
        return x * x.call("sum", dims=(0, 1)).call("expand", shape=x.shape)

    graph = fuse(graph_of(program, TensorType((1024, 1024), float32)))

    assert kinds(graph) == ["sum", "pointwise"]


def test_rows_of_different_dims_stay_apart():
    def program(x):
        return x.call("max", dims=(0,)), x.call("sum", dims=(1,))

    assert kinds(fuse(graph_of(program, MATRIX))) == ["max", "sum"]


def test_state_that_is_summed_down_columns_is_not_overwritten_by_the_sums():
    b = Builder()
    x, grad = b.input(MATRIX, "x"), b.input(MATRIX, "grad")
    weight = b.input(TensorType((128,), float32), "w")
    scaled = grad * steps.spread(weight, (64, 128))
    rows = scaled - x * (scaled * x).call("sum", dims=(1,)).call("expand", shape=(64, 128))
    columns = (scaled * x).call("sum", dims=(0,)).call("reshape", shape=(128,))
    graph = fuse(b.graph((rows.value, (weight - columns).value), {1: 2}))

    (node,) = kernels(graph)
    assert not may_overwrite(node, weight.value, graph.outputs[1])


def test_a_variance_of_columns_needs_another_turn_through_the_rows():
    def program(x):
        centred = x - x.call("sum", dims=(0,)).call("expand", shape=x.shape) / 64.0
        return (centred * centred).call("sum", dims=(0,)), x.call("max", dims=(1,))

    assert len(kinds(fuse(graph_of(program, MATRIX)))) == 2


def test_sums_of_columns_join_the_rows_that_are_read_anyway():
    def program(x):
        return x.call("sum", dims=(0,)), x.call("max", dims=(1,))

    assert kinds(fuse(graph_of(program, MATRIX))) == ["rows"]


def test_a_norm_updates_its_weight_in_place_where_its_gradient_is_made():
    step = steps.new_step()
    x = step.state(TensorType((64, 32), float32), "x")
    grad = step.state(TensorType((64, 32), float32), "grad")
    weight = steps.parameter(step, "w", 32)
    scaled = grad * steps.spread(weight, (64, 32))
    total = (scaled * x).call("sum", dims=(1,))
    step.outputs += [scaled - x * total.call("expand", shape=(64, 32))]
    of_weight = (grad * x).call("sum", dims=(0,)).call("reshape", shape=(32,))
    step.update(weight, weight - of_weight * 0.1)

    graph = run_pipeline(step.graph("step"), verify=True)["order"]

    (node,) = kernels(graph)
    assert may_overwrite(node, weight.value, graph.outputs[1])


def test_expensive_arithmetic_stays_out_of_operands():
    graph = fuse(graph_of(lambda x: x.call("exp").call("matmul", x), SQUARE))

    assert kinds(graph) == ["exp", "matmul"]


def test_an_explicit_cast_still_rounds_inside_a_region():
    from lowgrad.ir.types import bfloat16

    def program(x):
        return (x * 3.0).call("cast", dtype=bfloat16).call("cast", dtype=float32) + 1.0

    graph = graph_of(program, MATRIX)
    x = np.linspace(0, 1, 64 * 128, dtype=np.float32).reshape(64, 128)

    after = run_pipeline(graph, verify=True)["order"]

    assert kinds(after) == ["pointwise"]
    assert same_bits(interpret(after, x)[0], interpret(graph, x)[0])


def test_dropout_masks_are_drawn_again_not_differently():
    def program(x, key):
        mask = x.builder.apply(REGISTRY["uniform"], key, shape=x.shape, dtype=float32, offset=0)
        kept = x * (mask < 0.5).call("cast", dtype=float32)
        return kept.call("sum", dims=(0,)), kept.call("sum", dims=(1,)), mask

    graph = graph_of(program, MATRIX, TensorType((2,), int64))
    x, key = np.ones((64, 128), np.float32), np.array([3, 4])

    for got, want in zip(interpret(fuse(graph), x, key), interpret(graph, x, key), strict=True):
        assert same_bits(got, want)


# --- What it saves -----------------------------------------------------------------------------


def test_the_classifier_takes_a_third_of_the_kernels_and_half_of_the_bytes():
    graphs = run_pipeline(steps.classifier())
    unfused, fused = run_pipeline(steps.classifier(), fuse=False)["order"], graphs["order"]

    assert len(kernels(unfused)) >= 3 * len(kernels(fused))
    assert bytes_moved(unfused) >= 2 * bytes_moved(fused)
    assert len(kernels(fused)) == 10


def test_a_small_gpt_moves_less_than_half_of_the_bytes():
    unfused = run_pipeline(steps.gpt(), fuse=False)["order"]
    fused = run_pipeline(steps.gpt())["order"]

    assert bytes_moved(unfused) >= 4 * bytes_moved(fused)


def test_views_alone_make_no_kernel_of_a_weight_transpose():
    types = TensorType((8, 5), float32), TensorType((3, 5), float32)

    assert kinds(fuse(views(graph_of(steps.linear, *types)))) == ["matmul"]


def test_fusion_takes_linear_time():
    def seconds(nodes: int) -> float:
        graph = steps.gpt(steps.GptSize(2, 8, 16, 2, max(1, nodes // 740), 16))
        best = float("inf")
        for _ in range(2):
            start = time.perf_counter()
            run_pipeline(graph)
            best = min(best, time.perf_counter() - start)
        return best / len(graph.nodes)

    # A quadratic pass would take four times as long a node; the rest is noise of shared machines.
    assert seconds(8000) < 2.5 * seconds(2000)


@pytest.mark.parametrize("op", ["exp", "neg"])
def test_a_chain_of_thousands_is_cut_into_kernels(op):
    def program(x):
        for _ in range(3000):
            x = x.call(op)
        return x

    assert len(kernels(fuse(graph_of(program, MATRIX)))) == -(-3000 // 256)


# --- The partition -----------------------------------------------------------------------------


def test_merging_keeps_an_order_in_which_groups_can_run():
    # 0 -> 1 -> 3, 0 -> 2 -> 3, 4 alone
    parts = Partition([[], [0], [0], [1, 2], []])

    assert parts.merge(0, 3) is None  # 1 lies between
    assert parts.merge(1, 2) is not None
    assert parts.merge(4, 0) is not None
    assert parts.merge(parts.of[0], parts.of[1]) is not None
    assert parts.of[0] == parts.of[4] == parts.of[2]
    assert parts.in_order()[-1] == 3


def test_random_merges_never_make_a_cycle():
    rng = np.random.default_rng(0)
    for _ in range(50):
        reads = [
            sorted({int(rng.integers(0, i)) for _ in range(2)}) if i else [] for i in range(30)
        ]
        parts = Partition(reads)
        for a, b in rng.integers(0, 30, (40, 2)):
            if parts.of[a] != parts.of[b]:
                parts.merge(parts.of[a], parts.of[b])
        place = {group: i for i, group in enumerate(parts.in_order())}
        for node, sources in enumerate(reads):
            for source in sources:
                assert place[parts.of[source]] <= place[parts.of[node]]


def test_a_bias_gradient_is_summed_by_the_product_that_reads_the_same():
    step = steps.new_step()
    x = step.state(TensorType((4, 16, 32), float32), "x")
    for i, (k, n) in enumerate(((32, 32), (32, 48), (48, 32))):
        weight, bias = steps.parameter(step, f"w{i}", n, k), steps.parameter(step, f"b{i}", n)
        x = steps.gelu(steps.linear(x, weight, bias))
    steps.sgd(step, step.gradients(steps.mean(x, (0, 1, 2))))

    graph = run_pipeline(step.graph("step"), verify=True)["order"]

    both = [n for n in kernels(graph) if _ops(n) >= {"sum", "matmul"}]
    assert len(both) == 3
    assert all(n.attrs["kind"] == "matmul" for n in both)


def test_a_sum_over_other_elements_stays_apart_from_a_product():
    """Of square operands, sums over the axes that the product keeps."""

    def f(a, b):
        product = a.call("matmul", b)
        return product, a.call("sum", dims=(0,)), b.call("sum", dims=(1,))

    square = TensorType((32, 32), float32)

    assert sorted(kinds(fuse(graph_of(f, square, square)))) == ["matmul", "sum", "sum"]


def test_a_sum_that_is_mixed_with_the_product_itself_stays_apart():
    def f(a, b):
        product = a.call("matmul", b)
        first = product.call("slice", starts=(0, 0), stops=(32, 1), steps=(1, 1))
        return product, a.call("sum", dims=(1,)) * first

    graph = fuse(graph_of(f, TensorType((32, 48), float32), TensorType((48, 32), float32)))

    assert kinds(graph) == ["matmul", "rows"]


def test_sums_of_columns_of_what_the_rows_make_are_made_with_them():
    def f(x, g):
        total = (x * g).call("sum", dims=(1,)).call("expand", shape=x.shape)
        return total, (g * total).call("sum", dims=(0,))

    assert kinds(fuse(graph_of(f, MATRIX, MATRIX))) == ["rows"]


def test_gradients_of_a_norm_whose_result_nobody_wants_take_one_pass():
    step = steps.new_step()
    x, g = steps.parameter(step, "x", 64, 128), step.state(MATRIX, "g")
    weight, bias = steps.parameter(step, "w", 128), steps.parameter(step, "b", 128)
    loss = (steps.layer_norm(x, weight, bias) * g).call("sum", dims=(0, 1))
    step.outputs.extend(step.gradients(loss))

    graph = run_pipeline(step.graph("step"), verify=True)["order"]

    assert kinds(graph) == ["rows"]


def test_numbers_of_rows_that_follow_from_sums_of_columns_wait_for_these():
    """Of a square, where they are as many."""

    def f(x, g):
        total = (x * g).call("sum", dims=(1,)).call("expand", shape=x.shape)
        column = (x * g).call("sum", dims=(0,)).call("reshape", shape=(64, 1))
        return x - total, g * column.call("expand", shape=x.shape)

    square = TensorType((64, 64), float32)

    assert len(kinds(fuse(graph_of(f, square, square)))) == 2


def _ops(node) -> set[str]:
    body = node.attrs.get("body")
    return {n.op.name for n in body.nodes} if body else {node.op.name}


def test_an_update_of_what_another_update_reads_has_a_kernel_of_its_own():
    """In a shared one some programs would write the rows of `a` that others still read."""
    step = steps.new_step()
    a = step.state(TensorType((8, 16), float32), "a")
    b = step.state(TensorType((4, 16), float32), "b")
    c = step.state(TensorType((16,), float32), "c")
    attrs = {"starts": (2, 0), "stops": (6, 16), "steps": (1, 1)}
    step.update(a, a * 0.5)
    step.update(b, b + a.call("slice", **attrs))
    step.update(c, c * 0.5)

    graph = fuse(step.graph("step"))

    new_a, new_b, new_c = graph.outputs
    makers = [set(n.outputs) for n in kernels(graph)]
    assert [made for made in makers if new_a in made and new_b in made] == []
    assert any(new_c in made and len(made) == 2 for made in makers)


def test_rows_that_are_looked_up_for_sums_are_stored_for_later_readers():
    def embedded(table, tokens, weight, scale, shift):
        x = table.call("take", tokens, dim=0) * 2.0
        normed = steps.layer_norm(x, scale, shift)
        return x + normed.call("matmul", weight).call("exp").call("matmul", weight)

    vector, weight = TensorType((32,), float32), TensorType((32, 32), float32)
    tokens = TensorType((64,), int64)

    graph = fuse(graph_of(embedded, TensorType((500, 32), float32), tokens, weight, vector, vector))

    lookups = [n for n in kernels(graph) if "take" in inside(n)]
    assert [n.attrs["kind"] for n in lookups] == ["rows"]


def test_a_shared_kernel_holds_no_more_pointers_than_a_launch_takes():
    step = steps.new_step()
    for i in range(150):
        state = step.state(TensorType((3 + i,), float32), f"p{i}")
        grad = step.state(state.type, f"g{i}")
        step.update(state, state - grad)

    found = kernels(fuse(step.graph("step")))

    assert len(found) == 2
    assert all(len(n.inputs) + len(n.outputs) <= MAX_POINTERS for n in found)
