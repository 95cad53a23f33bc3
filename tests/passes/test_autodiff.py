"""Reverse-mode differentiation of recorded nodes."""

from __future__ import annotations

import numpy as np
import pytest

import lowgrad.ops  # noqa: F401 - fills the registry
from lowgrad.errors import VerifyError
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Location
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import TensorType, float64, int64
from lowgrad.passes.autodiff import gradients

VECTOR = TensorType((3,), float64)
X = np.array([0.5, -1.0, 2.0])


def everything(value):
    return True


def grads(b: Builder, out: Tracer, *wrt: Tracer, tracked=everything):
    seed = b.full(out.type, 1.0)
    return gradients(b, list(b.nodes), [out.value], [seed], [w.value for w in wrt], tracked)


def run(b: Builder, out: Tracer | None, *arrays):
    assert out is not None
    return interpret(b.graph((out.value,)), *arrays)[0]


@pytest.mark.parametrize("uses", [1, 2, 3, 4, 5])
def test_a_value_used_k_times_gets_k_terms(uses):
    b = Builder()
    x = b.input(VECTOR)
    out = x
    for _ in range(uses):
        out = out + x * 2.0

    (g,) = grads(b, out, x)

    np.testing.assert_array_equal(run(b, g, X), np.full(3, 1.0 + 2 * uses))


def test_gradients_of_gradients():
    b = Builder()
    x = b.input(VECTOR)
    value = x.call("sin") * x

    for _ in range(2):
        (value,) = grads(b, value, x)

    np.testing.assert_allclose(run(b, value, X), 2 * np.cos(X) - X * np.sin(X), rtol=1e-12)


def test_no_path_gives_none():
    b = Builder()
    x, y = b.input(VECTOR), b.input(VECTOR)

    found = grads(b, x * x, x, y)

    assert found[0] is not None
    assert found[1] is None


def test_stop_gradient_stops():
    b = Builder()
    x = b.input(VECTOR)

    (g,) = grads(b, x.call("stop_gradient") * x, x)

    np.testing.assert_array_equal(run(b, g, X), X)


def test_untracked_values_stop():
    b = Builder()
    x = b.input(VECTOR)
    hidden = x.call("exp")

    assert grads(b, hidden * 3.0, x, tracked=lambda v: v is not hidden.value) == [None]


def test_an_intermediate_and_its_source_both_get_gradients():
    b = Builder()
    x = b.input(VECTOR)
    square = x * x

    of_square, of_x = grads(b, square * 3.0, square, x)

    np.testing.assert_array_equal(run(b, of_square, X), np.full(3, 3.0))
    np.testing.assert_array_equal(run(b, of_x, X), 6 * X)


def test_the_output_itself_gets_the_seed():
    b = Builder()
    x = b.input(VECTOR)

    (g,) = grads(b, x, x)

    np.testing.assert_array_equal(run(b, g, X), np.ones(3))


def test_a_sort_passes_gradients_through_one_of_its_outputs():
    b = Builder()
    x = b.input(VECTOR)
    ordered, _ = x.call("sort", dim=0, descending=False)
    weights = b.apply(REGISTRY["iota"], shape=(3,), dtype=float64, dim=0)

    (g,) = grads(b, ordered * weights, x)

    np.testing.assert_array_equal(run(b, g, X), [1.0, 0.0, 2.0])


def test_several_outputs_add_up():
    b = Builder()
    x = b.input(VECTOR)
    one, two = x * 2.0, x * 5.0
    seeds = [b.full(VECTOR, 1.0), b.full(VECTOR, 10.0)]

    (g,) = gradients(b, list(b.nodes), [one.value, two.value], seeds, [x.value], everything)

    np.testing.assert_array_equal(run(b, g, X), np.full(3, 52.0))


def test_integers_have_no_gradient():
    b = Builder()
    index = b.input(TensorType((2,), int64))
    table = b.input(VECTOR)

    found = grads(b, table.call("take", index, dim=0), index, table)

    assert found[0] is None
    assert found[1] is not None


def test_a_derivative_has_the_line_of_its_node():
    b = Builder()
    x = b.input(VECTOR)
    line = Location("model.py", 14, "forward")
    with b.at(line):
        out = x.call("exp")
    before = len(b.nodes) + 1  # the seed

    grads(b, out, x)

    assert {n.loc for n in b.nodes[before:]} == {line}


def test_only_the_way_from_wrt_to_the_output_is_differentiated():
    b = Builder()
    x, y = b.input(VECTOR), b.input(VECTOR)
    side = y.call("exp").call("sin").call("tanh")
    before = len(b.nodes)

    grads(b, x.call("exp") + side, x)

    assert not {"cos", "tanh"} & {n.op.name for n in b.nodes[before:]}


def test_a_vjp_of_the_wrong_shape_is_caught_at_its_op(monkeypatch):
    monkeypatch.setattr(
        type(REGISTRY["exp"]), "vjp", lambda self, g, out, x: (g.call("sum", dims=(0,)),)
    )
    b = Builder()
    x = b.input(VECTOR)

    with pytest.raises(VerifyError, match="vjp of exp"):
        grads(b, x.call("exp"), x)
