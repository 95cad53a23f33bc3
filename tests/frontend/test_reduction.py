import itertools

import numpy as np
import pytest
from mirror import DTYPES, assert_gradients_mirrored, assert_mirrored, values

FLOATS = ["float64", "float32", "float16", "bfloat16"]
SHAPES = [(), (1,), (4,), (2, 3), (2, 3, 4), (1, 3, 1, 2), (0,), (2, 0, 3)]

FORMS = ["torch.{0}(x)", "x.{0}()"]
DIM_FORMS = ["torch.{0}(x, {1})", "x.{0}({1}, keepdim=True)", "x.{0}(dim={1})", "x.{0}({1}, True)"]
FOLDS = [
    "sum",
    "mean",
    "prod",
    "amax",
    "amin",
    "all",
    "any",
    "var",
    "std",
    "logsumexp",
    "nansum",
    "nanmean",
    "count_nonzero",
]
ONE_DIM = ["max", "min", "argmax", "argmin", "cumsum", "cumprod", "softmax", "log_softmax"]
NEEDS_DIM = {"logsumexp", "cumsum", "cumprod", "softmax", "log_softmax"}
NO_KEEPDIM = {"cumsum", "cumprod", "softmax", "log_softmax", "count_nonzero"}
MANY_DIMS = [n for n in FOLDS if n != "prod"]
NOT_DIFFERENTIABLE = {"all", "any", "count_nonzero", "argmax", "argmin"}


def forms(name, dims):
    """Every way of calling the reduction."""
    codes = [] if name in NEEDS_DIM else [f.format(name) for f in FORMS]
    for dim in dims:
        for form in DIM_FORMS:
            if name in {"var", "std"} and "True)" in form and "keepdim" not in form:
                continue  # the second positional argument is `unbiased`
            if name not in NO_KEEPDIM or "True" not in form:
                codes.append(form.format(name, dim))
    return codes


def single_dims(rank):
    return sorted({-1, 0, rank // 2, -max(rank, 1)})


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
@pytest.mark.parametrize("name", FOLDS + ONE_DIM)
def test_one_dim_at_a_time(name):
    for shape in SHAPES:
        for code in forms(name, single_dims(len(shape))):
            assert_mirrored(code, 4, x=values(shape))


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
@pytest.mark.parametrize("name", MANY_DIMS)
def test_several_dims(name):
    for shape, dims in [((2, 3, 4), (0, 2)), ((2, 3, 4), (-1, 0)), ((2, 3), (0, 1))]:
        for code in forms(name, [dims])[-4:]:
            assert_mirrored(code, 4, x=values(shape))
    assert_mirrored(f"x.{name}((0, 0))", x=values((2, 3)))


@pytest.mark.parametrize("name", FOLDS + ONE_DIM)
def test_dtypes(name):
    code = f"torch.{name}(x, 1)"
    for dtype in DTYPES:
        assert_mirrored(code, 4, x=values((2, 3), dtype))
    if name in {"sum", "mean", "prod", "cumsum", "cumprod", "softmax", "log_softmax"}:
        for a, b in itertools.product(DTYPES, ["float64", "float32", "int64"]):
            if not (name not in {"sum", "prod", "cumsum", "cumprod"} and b == "int64"):
                assert_mirrored(f"torch.{name}(x, 1, dtype=torch.{b})", 4, x=values((2, 3), a))


@pytest.mark.parametrize("name", [n for n in FOLDS + ONE_DIM if n not in NOT_DIFFERENTIABLE])
def test_gradients(name):
    for shape in [(), (3,), (2, 3), (2, 3, 2)]:
        if name in {"var", "std"} and not shape:
            continue
        for code in forms(name, [-1, 0])[:4]:
            assert_gradients_mirrored(code, twice=True, x=values(shape))
    if name in MANY_DIMS:
        assert_gradients_mirrored(f"torch.{name}(x, (0, 2))", x=values((2, 3, 2)))


OTHERS = [
    "x.var(0)",
    "x.var(dim=1, unbiased=False)",
    "torch.var(x, 1, unbiased=False)",
    "x.var(1, False)",
    "x.var(False)",
    "torch.std(x, 0, correction=0)",
    "x.std(1, False, True)",
    "torch.std(x, False)",
    "x.std((0, 1), unbiased=False, keepdim=True)",
    "torch.var_mean(x, 1)",
    "torch.std_mean(x, 0)",
    "torch.var_mean(x, 1, unbiased=False)",
    "torch.var_mean(x)",
    "x.norm()",
    "x.norm(1)",
    "torch.norm(x, 3)",
    "x.norm(2, 1)",
    "x.norm(p=1, dim=0, keepdim=True)",
    "torch.norm(x, float('inf'))",
    "torch.norm(x, -float('inf'), 1)",
    "torch.norm(x, 0)",
    "x.sum([0, 1])",
    "torch.mean(x, 1)",
    "x.mean((0, 1), True)",
    "x.max()",
    "x.min()",
    "torch.max(x, 1)",
    "x.max(1)[0]",
    "x.max(1).values",
    "x.max(dim=0).indices",
    "x.min(-1, True)",
    "torch.max(x, y)",
    "torch.min(x, other=y)",
    "x.argmax()",
    "x.argmax(1, True)",
    "x.argmin(dim=0)",
    "torch.aminmax(x)",
    "torch.aminmax(x, dim=1)",
    "torch.diff(x)",
    "torch.diff(x, dim=0)",
    "x.softmax(dim=-1)",
    "x.numel()",
    "torch.numel(x)",
    "torch.dist(x, y)",
    "x.nansum(1)",
    "torch.logsumexp(x, (0, 1))",
    "x.norm(dim=1)",
    "x.prod(1, True)",
]


@pytest.mark.parametrize("code", OTHERS)
def test_other_forms(code):
    assert_mirrored(code, 4, x=values((3, 4)), y=values((3, 4), seed=1))


@pytest.mark.parametrize(
    "code", [c for c in OTHERS if not any(w in c for w in ("arg", "numel", "ind", "x, 0)"))]
)
def test_gradients_of_other_forms(code):
    assert_gradients_mirrored(code, x=values((3, 4)), y=values((3, 4), seed=1))


@pytest.mark.parametrize(
    "code", ["x.max(1).values", "x.min(1)[0]", "x.amax(1)", "x.amin()", "x.max()"]
)
def test_ties_share_or_not_as_in_pytorch(code):
    assert_gradients_mirrored(code, x=([[1.0, 2, 2], [3, 3, 3]], "float64"))


@pytest.mark.parametrize("code", ["x.norm()", "x.norm(dim=1)", "x.std()", "x.std(0)"])
def test_equal_elements_have_a_deviation_without_slope(code):
    assert_gradients_mirrored(code, x=([[0.0, 0, 0], [0, 0, 0], [0, 0, 0]], "float64"))


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "all", "any", "amax", "argmax", "max"])
def test_nothing_to_reduce(name):
    for code in (f"x.{name}()", f"x.{name}(0)", f"x.{name}(1)"):
        assert_mirrored(code, x=values((0, 3)))


@pytest.mark.parametrize(
    "name",
    ["sum", "mean", "prod", "max", "min", "argmax", "argmin", "amax", "logsumexp", "softmax"],
)
def test_nan_and_infinities(name):
    rows = [
        [np.nan, 1, 2],
        [np.inf, 1, 2],
        [-np.inf, 0, 1],
        [np.inf, np.inf, -np.inf],
        [-np.inf] * 3,
    ]
    assert_mirrored(f"x.{name}(1)", x=(rows, "float64"))


@pytest.mark.parametrize("width", [1, 20, 33, 1025])
def test_widths_that_leave_a_tail(width):
    for name in ["min", "max", "prod", "argmin", "argmax", "softmax", "mean"]:
        for sign in (1, -1):
            x = values((2, width))[0]
            assert_mirrored(f"x.{name}(1)", 8, x=(sign * (np.abs(x) / 2 + 0.5), "float64"))


def test_many_small_numbers_add_up_in_half_precision():
    for dtype in ("float16", "bfloat16"):
        assert_mirrored("x.sum()", x=(np.ones(1000), dtype))
        assert_mirrored("x.mean()", x=(np.ones(1000), dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("code", ["x.mean()", "x.var()", "x.std()", "x.norm()"])
def test_more_elements_than_float16_can_count(code, dtype):
    x = (np.random.default_rng(0).uniform(0, 3, 70_000), dtype)

    assert_mirrored(code, x=x)
    assert_gradients_mirrored(code, x=x)


def test_max_returns_named_fields():
    assert_mirrored(
        "x.max(1)._fields if hasattr(x.max(1), '_fields') else ('values', 'indices')",
        x=values((2, 3)),
    )
