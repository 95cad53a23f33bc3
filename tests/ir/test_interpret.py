"""The interpreter: rounding, freeing, reading inputs as they were, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from lowgrad import ops  # noqa: F401  (fills the registry)
from lowgrad.errors import ShapeError
from lowgrad.ir import interpret, parse
from lowgrad.ir.interpret import interpret_wide
from lowgrad.ir.op import widen
from lowgrad.ir.types import bfloat16, float16

X = np.array([1.0, 2.0, 3.0], np.float32)


def test_a_graph_means_its_formula():
    graph = parse("""
        graph g(%x: f32[3], %y: f32[3]) {
          %a = mul %x, %y : f32[3]
          %b = add %a, %x : f32[3]
          %c, %d = sort %b {descending=True, dim=0} : f32[3], i64[3]
          return %c, %d, %x
        }""")

    c, d, x = interpret(graph, X, X)

    assert c.tolist() == [12, 6, 2]
    assert d.tolist() == [2, 1, 0]
    assert x.tolist() == [1, 2, 3]


def test_updates_do_not_touch_what_was_given():
    graph = parse("""
        graph g(%x: f32[3]) aliases {0: 0} {
          %a = add %x, %x : f32[3]
          %b = add %a, %x : f32[3]
          return %a, %b
        }""")
    given = X.copy()

    a, b = interpret(graph, given)

    assert (a.tolist(), b.tolist()) == ([2, 4, 6], [3, 6, 9])
    assert given.tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=lambda d: d.short)
def test_each_node_rounds_to_its_type(dtype):
    graph = parse(f"""
        graph g(%x: {dtype.short}[1], %y: {dtype.short}[1]) {{
          %a = add %x, %y : {dtype.short}[1]
          %b = sub %a, %x : {dtype.short}[1]
          return %a, %b
        }}""")
    x, y = np.array([4096], dtype.numpy), np.array([1], dtype.numpy)

    a, b = interpret(graph, x, y)
    wide = interpret_wide(graph, widen(x), widen(y))

    assert a.dtype == b.dtype == dtype.numpy
    assert float(b[0]) == 0
    assert [w.tolist() for w in wide] == [[4097], [1]]


def test_moved_data_keeps_its_bits():
    graph = parse("graph g(%x: bf16[2]) { %a = flip %x {dims=(0,)} : bf16[2] return %a }")
    nan = np.array([0x7FC1, 0xFF81], np.uint16).view(bfloat16.numpy)

    (out,) = interpret(graph, nan)

    assert out.view(np.uint16).tolist() == [0xFF81, 0x7FC1]


def test_outputs_may_be_inputs_repeat_or_be_absent():
    graph = parse("graph g(%x: f32[3], %y: f32[3]) { %a = neg %y : f32[3] return %x, %x }")

    one, two = interpret(graph, X, X)

    assert one.tolist() == two.tolist() == [1, 2, 3]
    assert interpret(parse("graph g() { return }")) == ()


def test_zero_d_results_are_arrays():
    graph = parse("graph g(%x: f32[]) { %a = exp %x : f32[] %b = mul %a, %a : f32[] return %b }")

    (out,) = interpret(graph, np.zeros((), np.float32))

    assert isinstance(out, np.ndarray)
    assert out.dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((), "interpret: g has 1 inputs, got 0 arrays"),
        ((np.zeros(4, np.float32),), "interpret: input %x is f32[3], got float32[4]"),
        ((np.zeros(3),), "interpret: input %x is f32[3], got float64[3]"),
    ],
)
def test_arrays_have_the_inputs_types(arrays, message):
    graph = parse("graph g(%x: f32[3]) { return %x }")

    with pytest.raises(ShapeError) as caught:
        interpret(graph, *arrays)

    assert caught.value.message == message
