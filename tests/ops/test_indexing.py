"""Gathers and scatters: repeated indices, order, bounds, and derivatives that fuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lowgrad.errors import DTypeError, IndexOutOfRange, ShapeError
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import TensorType, bool_, float32, float64, int32, int64
from lowgrad.ops.indexing import gather, index_add, scatter, scatter_add, take


def f32(*shape: int) -> TensorType:
    return TensorType(shape, float32)


def i64(*shape: int) -> TensorType:
    return TensorType(shape, int64)


def gradient_ops(op, types, out, **attrs) -> list[str]:
    builder = Builder()
    inputs = [builder.input(t) for t in types]
    op.vjp(builder.input(out), None, *inputs, **attrs)
    return [node.op.name for node in builder.nodes]


def test_the_last_of_several_scattered_stays():
    base, index = np.zeros(3), np.array([1, 1, 2, 1])

    out = scatter.evaluate(base, index, np.array([5.0, 6.0, 7.0, 8.0]), dim=0)

    assert out.tolist() == [0, 8, 7]


def test_only_the_last_scattered_has_a_gradient():
    builder = Builder()
    g, base, src = (builder.input(TensorType((n,), float64)) for n in (3, 3, 4))
    index = builder.input(i64(4))
    kept, _, won = scatter.vjp(g, g, base, index, src, dim=0)
    graph = builder.graph((kept.value, won.value))

    got = interpret(graph, np.arange(1.0, 4), np.zeros(3), np.zeros(4), np.array([1, 1, 2, 1]))

    assert [g.tolist() for g in got] == [[1, 0, 0], [0, 0, 3, 2]]


@pytest.mark.parametrize("dim", [0, 1])
def test_scatter_is_torchs_where_indices_differ(dim):
    rng = np.random.default_rng(0)
    base, src = rng.normal(size=(5, 6)), rng.normal(size=(5, 6))
    index = rng.permuted(np.indices((5, 6))[dim], axis=dim)

    out = scatter.evaluate(base, index, src, dim=dim)

    want = torch.from_numpy(base).scatter(dim, torch.from_numpy(index), torch.from_numpy(src))
    np.testing.assert_array_equal(out, want.numpy())


def test_sources_behind_the_index_are_not_used_and_have_no_gradient():
    rng = np.random.default_rng(0)
    base, src, index = rng.normal(size=(4, 5)), rng.normal(size=(4, 9)), rng.integers(0, 5, (2, 3))
    builder = Builder()
    types = [TensorType(a.shape, float64) for a in (base, base, src)]
    g, b, s = (builder.input(t) for t in types)
    i = builder.input(i64(2, 3))
    _, _, slope = scatter_add.vjp(g, g, b, i, s, dim=1)

    out = scatter_add.evaluate(base, index, src, dim=1)
    (got,) = interpret(builder.graph((slope.value,)), base, base, src, index)

    first = scatter_add.evaluate(base, index, src[:2, :3], dim=1)
    np.testing.assert_array_equal(out, first)
    want = np.zeros((4, 9))
    want[:2, :3] = np.take_along_axis(base[:2], index, 1)
    np.testing.assert_array_equal(got, want)


def test_sums_of_repeated_rows_are_the_same_bits_each_time_and_in_order():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, 1000)
    src = rng.normal(size=(1000, 2)).astype(np.float32)
    base = np.zeros((3, 2), np.float32)

    first, again = (index_add.evaluate(base, index, src, dim=0) for _ in range(2))

    np.testing.assert_array_equal(first, again)
    want = np.zeros((3, 2), np.float64)
    np.add.at(want, index, src.astype(np.float64))
    np.testing.assert_allclose(first, want, atol=1000 * 2**-24 * 30)


def test_integer_sums_wrap_and_keep_their_type():
    base = np.full(2, 127, np.int8)

    out = index_add.evaluate(base, np.array([0, 0]), np.array([1, 1], np.int8), dim=0)

    assert out.dtype == np.int8
    assert out.tolist() == [-127, 127]


def test_inputs_are_left_as_they_were():
    base, index, src = np.zeros((3, 2)), np.array([[0, 1]]), np.ones((1, 2))

    scatter_add.evaluate(base, index, src, dim=0)
    scatter.evaluate(base, index, src, dim=0)
    index_add.evaluate(base, index[0], np.ones((2, 2)), dim=0)

    assert not base.any()


@pytest.mark.parametrize("bad", [-1, 5])
def test_an_index_out_of_range_is_named(bad):
    x, index = np.zeros((5, 2)), np.array([[0, bad], [1, 2]])
    src = np.zeros((2, 2))
    message = f"index {bad} is out of range for size 5"
    calls = {
        "take": (x, index),
        "gather": (x, index),
        "index_add": (x, index, np.zeros((2, 2, 2))),
        "scatter_add": (x, index, src),
        "scatter": (x, index, src),
    }

    for name, arrays in calls.items():
        with pytest.raises(IndexOutOfRange) as caught:
            REGISTRY[name].evaluate(*arrays, dim=0)
        assert caught.value.message == f"{name}: {message}"


def test_the_gradient_of_one_element_a_row_compares_and_does_not_scatter():
    names = gradient_ops(gather, [f32(8, 10), i64(8, 1)], f32(8, 1), dim=1)

    assert names == ["full", "iota", "expand", "eq", "expand", "where"]


def test_other_gradients_of_gather_scatter():
    names = gradient_ops(gather, [f32(8, 10), i64(8, 2)], f32(8, 2), dim=1)

    assert names == ["full", "scatter_add"]


REFUSED = [
    (take, [f32(3), f32(2)], "take: the index is f32[2]: i64 or i32 is needed"),
    (take, [f32(), i64(2)], "take: f32[] has no dim 0"),
    (gather, [f32(3, 4), i64(3)], "gather: i64[3] and f32[3,4] have 1 and 2 dims"),
    (gather, [f32(3, 4), i64(2, 5)], "gather: dim 1 of i64[2,5] is larger than that of f32[3,4]"),
    (
        index_add,
        [f32(3, 4), i64(2), f32(2, 5)],
        "index_add: f32[2,5] is not what i64[2] takes from f32[3,4] along 0",
    ),
    (
        scatter_add,
        [f32(3), i64(2), f32(1)],
        "scatter_add: dim 0 of i64[2] is larger than that of f32[1]",
    ),
    (
        scatter_add,
        [TensorType((3,), bool_), i64(2), TensorType((2,), bool_)],
        "scatter_add: b1[3] and b1[2]: the dtypes are equal and not bool",
    ),
    (
        scatter,
        [f32(3), i64(2), TensorType((2,), int32)],
        "scatter: the dtypes differ: f32[3] and i32[2]",
    ),
]


@pytest.mark.parametrize(("op", "types", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_infer_states_the_plain_fact(op, types, message):
    with pytest.raises((ShapeError, DTypeError)) as caught:
        op.infer(*types, dim=0)

    assert caught.value.message == message
