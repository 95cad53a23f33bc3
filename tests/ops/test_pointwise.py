"""Pointwise ops at the edges: NaN, infinities, signed zeros, ties, all dtypes, wrong operands."""

import itertools

import numpy as np
import pytest
import torch
from samples import TORCH

from lowgrad import ops  # noqa: F401  (fills the registry)
from lowgrad.errors import ArgumentError, DTypeError, ShapeError
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY, evaluate, outputs_of
from lowgrad.ir.types import (
    DTYPES,
    TensorType,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
)

POINTWISE = {name: op for name, op in REGISTRY.items() if op.family == "pointwise"}
GENERIC = {name: op for name, op in POINTWISE.items() if name not in ("cast", "where")}
SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.0, 1e300)

OF_FLOATS = [name for name, op in GENERIC.items() if float64 in op.domain.dtypes]
SMOOTH = [name for name in OF_FLOATS if GENERIC[name].result is None and name != "stop_gradient"]


def run(name, *arrays, **attrs):
    """Evaluate one op on arrays in storage types."""
    op = REGISTRY[name]
    types = tuple(
        TensorType(a.shape, next(d for d in DTYPES if d.numpy == a.dtype)) for a in arrays
    )
    (result,) = evaluate(op, arrays, attrs, outputs_of(op, types, attrs))
    return result


def vjp(name, g, *arrays, **attrs):
    """The gradients that the op's vjp gives for float64 arrays, 0 for None."""
    builder = Builder()
    inputs = [builder.input(TensorType(a.shape, float64)) for a in arrays]
    seed = builder.input(TensorType(g.shape, float64))
    op = REGISTRY[name]
    found = op.vjp(seed, builder.apply(op, *inputs, **attrs), *inputs, **attrs)
    graph = builder.graph(tuple(t.value for t in found))
    return interpret(graph, *arrays, g)


# --- The table of special values ---------------------------------------------------------------


@pytest.mark.parametrize("name", OF_FLOATS)
def test_special_values_are_torchs(name):
    arity = REGISTRY[name].arity
    rows = np.array(list(itertools.product(SPECIAL, repeat=arity))).T.copy()

    got = run(name, *rows)

    want = TORCH[name](*map(torch.from_numpy, rows)).numpy()
    if name == "sign":
        # torch's is 0, which loses the NaN; NumPy's and JAX's is not, and so is ours.
        want = np.where(np.isnan(rows[0]), np.nan, want)
    np.testing.assert_allclose(got, want, rtol=1e-14)
    if name not in ("mod", "maximum", "minimum"):
        # A zero of `mod` has the divisor's sign here, as in Python, and the dividend's in torch.
        # Of two zeros, which one maximum returns is specified nowhere.
        np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(want[want == 0]))


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_at_special_values_are_torchs(name):
    arity = REGISTRY[name].arity
    rows = np.array(list(itertools.product(SPECIAL[:-1], repeat=arity))).T.copy()
    ones = np.ones(rows.shape[1])

    got = vjp(name, ones, *rows)

    inputs = [torch.from_numpy(row).requires_grad_() for row in rows]
    want = torch.autograd.grad(TORCH[name](*inputs).sum(), inputs, allow_unused=True)
    for g, w in zip(got, want, strict=True):
        expected = np.zeros(g.shape) if w is None else w.numpy()
        if name == "abs":  # whose slope is the sign
            expected = np.where(np.isnan(rows[0]), np.nan, expected)
        np.testing.assert_allclose(g, expected, rtol=1e-14)


def test_sign_keeps_nan():
    x = np.array([np.nan, -3.0, -0.0, 0.0, 3.0], np.float32)

    np.testing.assert_array_equal(run("sign", x), [np.nan, -1, 0, 0, 1])


def test_sigmoid_neither_overflows_nor_vanishes_early():
    x = np.array([-1000, -100, -90, 90, 1000], np.float32)

    got = run("sigmoid", x)

    np.testing.assert_allclose(got, [0, np.exp(-100.0), np.exp(-90.0), 1, 1], rtol=1e-5, atol=1e-45)


def test_round_takes_halves_to_even():
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)

    np.testing.assert_array_equal(run("round", x), [-2, -2, -0.0, 0, 2, 2])


def test_a_true_bool_becomes_exactly_one():
    x = np.array([True, False])

    for dtype in DTYPES:
        np.testing.assert_array_equal(run("cast", x, dtype=dtype).astype(np.float64), [1, 0])


def test_a_cast_there_and_back_rounds():
    x = np.array([1.0001, 2049, 70000], np.float32)

    got = run("cast", run("cast", x, dtype=float16), dtype=float32)

    np.testing.assert_array_equal(got, [1, 2048, np.inf])


# --- Integers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [int64, int32, int8, float64, float32])
def test_floordiv_and_mod_are_pythons_for_all_signs(dtype):
    pairs = [(a, b) for a in range(-9, 10) for b in range(-9, 10) if b]
    a, b = np.array(pairs).T.astype(dtype.numpy)

    np.testing.assert_array_equal(run("floordiv", a, b), [p // q for p, q in pairs])
    np.testing.assert_array_equal(run("mod", a, b), [p % q for p, q in pairs])


@pytest.mark.parametrize("name", ["floordiv", "mod"])
def test_integer_division_by_zero_raises(name):
    a = np.array([[1, 2], [3, 4]])
    b = np.array([[1, 1], [0, 1]])

    with pytest.raises(ArgumentError, match=rf"{name}: .* zero, at index \(1, 0\)"):
        run(name, a, b)


def test_integer_powers_are_torchs():
    pairs = np.array(
        [(a, b) for a in range(-4, 5) for b in range(-4, 5) if (a, b < 0) != (0, True)]
    )
    a, b = pairs.T.copy()

    want = [int(p**q) if q >= 0 else {1: 1, -1: (-1) ** q}.get(p, 0) for p, q in pairs.tolist()]
    np.testing.assert_array_equal(run("pow", a, b), want)


def test_integers_wrap_without_warnings():
    top = np.array([2**31 - 1], np.int32)
    bottom = np.array([-(2**31)], np.int32)

    np.testing.assert_array_equal(run("add", top, np.ones(1, np.int32)), bottom)
    np.testing.assert_array_equal(run("neg", bottom), bottom)
    np.testing.assert_array_equal(run("neg", np.array([1], np.uint8)), [255])


# --- Derivatives -------------------------------------------------------------------------------


def test_the_gradient_of_abs_at_zero_is_zero():
    (got,) = vjp("abs", np.ones(3), np.array([-2.0, 0.0, 2.0]))

    np.testing.assert_array_equal(got, [-1, 0, 1])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_equal_ones_share_the_gradient(name):
    to_a, to_b = vjp(name, np.full(2, 6.0), np.ones(2), np.ones(2))

    np.testing.assert_array_equal(to_a, [3, 3])
    np.testing.assert_array_equal(to_b, [3, 3])


def test_powers_of_zero_have_finite_gradients():
    to_base, to_exponent = vjp("pow", np.ones(4), np.zeros(4), np.array([0.0, 1.0, 2.0, 3.0]))

    np.testing.assert_array_equal(to_base, [0, 1, 0, 0])
    np.testing.assert_array_equal(to_exponent, [0, 0, 0, 0])


# --- Types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERIC)
def test_each_dtype_is_taken_with_its_type_or_refused(name):
    op = GENERIC[name]
    for dtype in DTYPES:
        type_ = TensorType((2,), dtype)
        operands = (np.ones(2, dtype.numpy),) * op.arity
        if dtype not in op.domain.dtypes:
            with pytest.raises(
                DTypeError, match=rf"^{name}: takes {op.domain.name}, got {dtype.short}"
            ):
                op.infer(*(type_,) * op.arity)
            continue

        (inferred,) = outputs_of(op, (type_,) * op.arity, {})
        raw = np.asarray(op.evaluate(*(a.astype(dtype.wide) for a in operands)))

        assert inferred.dtype is (op.result or dtype)
        assert raw.dtype == inferred.dtype.wide


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(DTYPES, 2)))
def test_nothing_is_promoted(a, b):
    with pytest.raises(
        DTypeError, match=rf"^eq: operands differ: {a.short}\[3\] and {b.short}\[3\]"
    ):
        REGISTRY["eq"].infer(TensorType((3,), a), TensorType((3,), b))


def test_nothing_is_broadcast():
    with pytest.raises(ShapeError, match=r"^add: operands differ: f32\[8,4\] and f32\[8\]"):
        REGISTRY["add"].infer(TensorType((8, 4), float32), TensorType((8,), float32))


@pytest.mark.parametrize("name", GENERIC)
def test_the_number_of_operands_is_checked(name):
    arity = GENERIC[name].arity

    with pytest.raises(ArgumentError, match=rf"^{name}: takes {arity} operands, got {arity + 1}"):
        GENERIC[name].infer(*(TensorType((), int64),) * (arity + 1))


def test_where_needs_a_bool_of_the_same_shape():
    where = REGISTRY["where"]
    x = TensorType((3,), float32)

    with pytest.raises(DTypeError, match=r"condition is u8\[3\], not bool"):
        where.infer(TensorType((3,), uint8), x, x)
    with pytest.raises(ShapeError, match=r"condition b1\[\] and f32\[3\]"):
        where.infer(TensorType((), bool_), x, x)
    with pytest.raises(DTypeError, match=r"f32\[3\] and i32\[3\]"):
        where.infer(TensorType((3,), bool_), x, TensorType((3,), int32))
    with pytest.raises(ArgumentError, match="takes 3 operands, got 2"):
        where.infer(x, x)
