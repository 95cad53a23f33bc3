import itertools

import numpy as np
import pytest
from mirror import DTYPES, assert_gradients_mirrored, assert_mirrored, values

FLOATS = ["float64", "float32", "float16", "bfloat16"]
SHAPES = [(), (0,), (1,), (5,), (2, 0, 3), (2, 3), (2, 1, 3, 2)]

UNARY = [
    "exp",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "erf",
    "floor",
    "ceil",
    "sign",
    "abs",
    "neg",
    "round",
    "trunc",
    "square",
    "reciprocal",
    "relu",
    "log2",
    "log10",
    "isnan",
    "isinf",
    "isfinite",
    "nan_to_num",
    "logical_not",
    "clone",
    "negative",
    "absolute",
    "positive",
    "frac",
    "exp2",
]
OF_POSITIVE = {"log", "log1p", "sqrt", "rsqrt", "log2", "log10"}
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "true_divide",
    "floor_divide",
    "remainder",
    "maximum",
    "minimum",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "fmod",
]
OPERATORS = ["+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">="]
PAIRS = [
    ((), ()),
    ((3,), ()),
    ((), (2, 3)),
    ((1,), (3,)),
    ((2, 1), (1, 3)),
    ((2, 3), (3,)),
    ((4, 1, 3), (2, 1)),
    ((2, 1, 3, 1), (4, 1, 5)),
    ((0,), (1,)),
    ((2, 0), (1, 1)),
    ((2, 3), (2, 3)),
    ((1, 1), (1,)),
    ((5,), (2, 3, 4, 5)),
]
SCALARS = [2, -3, 0.5, 1.5, -0.25, 7]
OTHERS = [  # (expression, its gradient is tested)
    ("x.clamp(-0.5, 0.7)", True),
    ("torch.clamp(x, min=0.1)", True),
    ("torch.clamp(x, max=0.1)", True),
    ("x.clip(-0.3, 0.3)", True),
    ("torch.clamp(x, y, y + 1)", True),
    ("torch.where(x > 0, x, y)", True),
    ("torch.where(x > 0, x, 0.0)", True),
    ("torch.where(x > 0, 1.5, y)", True),
    ("x.where(x > y, y)", True),
    ("torch.where(x[:1] > 0, x, y)", True),
    ("x.masked_fill(x > 0, 0.5)", True),
    ("torch.masked_fill(x, y > 0, -1)", True),
    ("torch.lerp(x, y, 0.3)", True),
    ("torch.lerp(x, y, x)", True),
    ("x.addcmul(y, x, value=0.5)", True),
    ("torch.addcdiv(x, y, x, value=2)", True),
    ("torch.add(x, y, alpha=3)", True),
    ("torch.sub(x, y, alpha=0.5)", True),
    ("x.add(y).sub(1).mul(2).div(4)", True),
    ("torch.div(x, y, rounding_mode='floor')", False),
    ("torch.div(x, y, rounding_mode='trunc')", False),
    ("x ** 2", True),
    ("x ** 3", True),
    ("x.abs() ** 0.5", True),
    ("x ** -1", True),
    ("x ** 0", True),
    ("x ** 1", True),
    ("2.0 ** x", True),
    ("x.abs() ** y", True),
    ("torch.pow(x, 3)", True),
    ("torch.pow(2, x)", True),
    ("x.pow(y.round())", False),
    ("torch.isclose(x, y)", False),
    ("torch.isclose(x, x + 1e-9)", False),
    ("torch.round(x * 100, decimals=1)", False),
    ("1 - x", True),
    ("3 / x", True),
    ("-x", True),
    ("abs(x)", True),
    ("+x", True),
    ("5 // x", False),
    ("5 % x", False),
    ("x.fmod(0.3)", True),
    ("torch.remainder(x, 0.3)", True),
    ("torch.remainder(5, x)", False),
    ("x.softmax(-1)", True),
    ("x.log_softmax(-1)", True),
    ("x.logical_and(y)", False),
    ("x.float() + y.double()", False),
    ("torch.relu(x) + torch.sigmoid(y)", True),
    ("x.detach() * y", True),
    ("torch.square(x)", True),
    ("torch.maximum(x, y) - torch.minimum(x, y)", True),
    ("torch.rsqrt(x.abs())", True),
    ("torch.nan_to_num(x / 0.0, 1.0, 2.0, 3.0)", False),
    ("torch.exp2(x)", True),
    ("torch.frac(x)", True),
    ("torch.logaddexp(x, y)", True),
    ("torch.xlogy(x, y.abs())", True),
]


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        x = values(shape, dtype)
        if name in OF_POSITIVE:
            x = np.abs(x[0]), dtype
        scale = 10 if name in {"log2", "log10"} else 2
        assert_mirrored(f"torch.{name}(x)", scale, x=x)
    assert_mirrored(f"x.{name}()", 10, x=values((3,)))


@pytest.mark.parametrize("name", [n for n in UNARY if not n.startswith(("is", "logical"))])
def test_gradient_of_unary(name):
    for shape in [(), (0,), (2, 3)]:
        data, dtype = values(shape)
        x = (np.abs(data) / 4 + 0.05 if name in OF_POSITIVE else data), dtype
        assert_gradients_mirrored(f"torch.{name}(x)", twice=True, x=x)


@pytest.mark.parametrize("name", BINARY)
def test_binary_of_every_pair_of_dtypes(name):
    for a, b in itertools.product(DTYPES, DTYPES):
        if {a, b} == {"uint8", "int8"}:  # PyTorch's int16
            continue
        x, y = values((2, 3), a), values((3,), b, seed=1)
        if name in {"floor_divide", "remainder", "fmod"}:
            y = np.where(y[0] == 0, 1, y[0]), b
        assert_mirrored(f"torch.{name}(x, y)", 2, x=x, y=y)


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
def test_broadcasting(shapes):
    x, y = values(shapes[0]), values(shapes[1], seed=1)
    for name in BINARY:
        assert_mirrored(f"torch.{name}(x, y)", x=x, y=y)
    for code in ("x + y", "x * y", "x / y", "torch.maximum(x, y)", "torch.where(x > y, x, y)"):
        assert_gradients_mirrored(code, twice=True, x=x, y=y)


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_with_python_numbers(operator):
    for dtype, scalar in itertools.product(DTYPES, [*SCALARS, True]):
        for shape in [(), (3,)]:
            x = values(shape, dtype)
            nonzero = np.where(x[0] == 0, 1, x[0]), dtype
            assert_mirrored(f"x {operator} {scalar}", 2, x=x)
            assert_mirrored(f"{scalar} {operator} x", 2, x=nonzero)


@pytest.mark.parametrize("operator", ["&", "|", "^"])
def test_bits(operator):
    for a, b in itertools.product(DTYPES, DTYPES):
        if {a, b} != {"uint8", "int8"}:
            assert_mirrored(f"x {operator} y", x=values((4,), a), y=values((4,), b, seed=1))
    for dtype in DTYPES:
        assert_mirrored(f"x {operator} 5", x=values((4,), dtype))
        assert_mirrored(f"x {operator} True", x=values((4,), dtype))
        assert_mirrored("~x", x=values((4,), dtype))


@pytest.mark.parametrize("code", [code for code, _ in OTHERS])
def test_other_functions(code):
    for dtype in ("float64", "float32"):
        assert_mirrored(code, 4, x=values((2, 3), dtype), y=values((2, 3), dtype, seed=1))


@pytest.mark.parametrize("code", [code for code, smooth in OTHERS if smooth])
def test_gradient_of_other_functions(code):
    x, y = values((2, 3)), values((2, 3), seed=1)
    assert_gradients_mirrored(code, twice=True, x=x, y=y)


@pytest.mark.parametrize("operator", ["//", "%"])
def test_quotients_round_down_for_every_sign(operator):
    grid = np.arange(-9, 10)
    other = grid[grid != 0]
    for dtype in ("int64", "int32", "int8", "float64", "float32"):
        x, y = (grid[:, None], dtype), (other[None, :], dtype)
        assert_mirrored(f"x {operator} y", x=x, y=y)
        assert_mirrored("torch.fmod(x, y)", x=x, y=y)
        assert_mirrored("torch.div(x, y, rounding_mode='trunc')", x=x, y=y)


SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0]


@pytest.mark.parametrize(
    "code",
    [f"torch.{n}(x, y)" for n in BINARY]
    + ["torch.where(x > y, x, y)", "x ** y", "x.clamp(-1, 1) + y", "torch.clamp(x, min=y)"],
)
def test_nan_and_infinities(code):
    x, y = np.meshgrid(SPECIAL, SPECIAL)
    assert_mirrored(code, x=(x, "float64"), y=(y, "float64"))


def test_integers_wrap_as_pytorchs():
    for code in ("x + 300", "x * 77", "x - 200", "-x", "x + (-1)", "x > 300", "x == -1", "x < 300"):
        assert_mirrored(code, x=([0, 1, 100, 255], "uint8"))
    for code in ("x + 100", "x * x", "x - 100", "abs(x)"):
        assert_mirrored(code, x=([-128, -1, 100, 127], "int8"))
