import itertools

import numpy as np
import pytest
from mirror import assert_gradients_mirrored, assert_mirrored, values

BASIC = ["0", "-1", ":", "1:", ":-1", "::2", "1:1", "5:9", "-9:1", "None", "...", "True", "False"]
ADVANCED = [
    "[0, 1]",
    "[1, -1, 0]",
    "torch.tensor([1, 0, 1])",
    "torch.tensor([[0, 1], [1, 1]])",
    "torch.tensor(1)",
    "torch.tensor([], dtype=torch.int64)",
    "torch.tensor([True, False])",
    "[True, False]",
    "np.array([1, 0])",
    "torch.tensor([1, 0], dtype=torch.int32)",
    "np.int64(1)",
    "range(2)",
]
MASKS = [
    "x > 0",
    "x[0] > 0",
    "x[:, 0] > 0",
    "(x > 9)",
    "torch.ones(2, dtype=torch.bool)",
    "x[0] == x[0]",
    "(x[0] > 0, 1)",
    "(x[:, 0, 0] > -9, slice(1, 3))",
    "(0, x[0] > 0)",
    "(slice(None), x[0] > 0)",
    "(slice(None), x[0, :, 0] > 0)",
    "(..., x[0, 0] > 0)",
    "(..., x[0, 0] > 0, None)",
    "(x[:, 0] > 0, [0])",
]
MIXED = [
    "0, [0, 1]",
    "[0, 1], 0",
    "[0, 1], :, 0",
    "[0, 1], :, [0, 1]",
    ":, [0, 1], [1, 2]",
    ":, [0, 1], 1",
    "..., [0, 3]",
    "None, [0, 1]",
    "[0, 1], None",
    "[0, 1], None, [1, 2]",
    "[0, 1], ..., [1, 2]",
    ":, None, [0, 1]",
    "0, None, [0]",
    "[[0], [1]], [0, 1]",
    "[[0], [1]], :, [0, 1]",
    "torch.tensor([0, 1]), torch.tensor([[0], [1]])",
    "1:, [0, 2]",
    "[0, 1], 1:, 2",
    "::2, :, [0, 1]",
    "0, :, [0, 1]",
    "0, 1, [0, 1]",
    "[1], [1], [1]",
    "-1, ..., 1",
    "0, 0, 0",
    "0, ..., None, 1:",
    "None, None",
    "..., None",
    "..., 0, :",
    "(slice(0, 1), ...)",
    "[0, 1], [True, False, True]",
    "torch.tensor(0), [0, 1]",
    "torch.tensor(0), torch.tensor(1)",
    ":, torch.tensor(1)",
    "[0, 1], torch.tensor(2)",
    "2",
    "[2]",
    "0, 3",
    "0, 0, 0, 0",
    "::-1",
    "[0, 1], [0, 1, 2]",
    "1.5",
    "'a'",
    "torch.tensor([0.5])",
    "torch.tensor([True, False, True])",
    "...,[True, False, True, False]",
    "()",
]
# PyTorch gives a value that was overwritten a gradient all the same.
REPEATED = {"[1, -1, 0]", "torch.tensor([1, 0, 1])", "torch.tensor([[0, 1], [1, 1]])"}
PAIRS = [f"{a}, {b}" for a, b in itertools.product(BASIC[:10], BASIC[:11])]
PAIRS += [f"..., {b}" for b in BASIC[:10]]
INDICES = list(dict.fromkeys(BASIC + PAIRS + ADVANCED + MASKS + MIXED))
VALUES = [
    "7",
    "-1.5",
    "y",
    "torch.tensor(3.0)",
    "torch.zeros(1)",
    "y[0]",
    "y[:, :, :1]",
    "torch.ones(5)",
    "True",
]


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("index", INDICES)
def test_reading(index):
    assert_mirrored(f"x[{index}]", x=values((2, 3, 4)))
    assert_mirrored(f"x[{index}]", x=values((2, 3, 4), "int64"))
    assert_gradients_mirrored(f"x[{index}]", x=values((2, 3, 4)))


@pytest.mark.parametrize("index", INDICES)
def test_writing(index):
    for value in VALUES:
        x, y = values((2, 3, 4), "float32"), values((2, 3, 4), "float32", seed=1)
        if (index, value) == ("False", "torch.ones(5)"):
            continue  # five values for no elements: PyTorch writes none of them, we refuse
        if value == "y":  # of the fitting shape
            value = f"y[{index}]" if "x" not in index else "2"
        assert_mirrored(f"x[{index}] = {value}\nout = x", x=x, y=y)


@pytest.mark.parametrize(
    "index", [i for i in INDICES if "x" not in i and i not in REPEATED][::3] + MASKS[:3]
)
def test_gradients_of_writing(index):
    code = f"z = x * 1\nz[{index}] = y[{index}] * 2\nout = z * z"
    assert_gradients_mirrored(code, x=values((2, 3, 4)), y=values((2, 3, 4), seed=1))


FOUR_DIMS = [
    ":, [0, 1], :, [0, 2]",
    ":, [0, 1], [0, 2]",
    ":, [0, 1], None, [0, 2]",
    "0, [0, 1], :, [0, 2]",
    "..., [0, 1], [0, 2]",
    ":, 0, :, [0, 2]",
    "[0, 1], :, :, [0, 2]",
    ":, :, [[0], [1]], [0, 2]",
    ":, x[0, :, 0, 0] > 0, :, 0",
    "1:, [0, 1], ..., None, [0, 2]",
    ":, [0, 1], 0, [0, 2]",
]


@pytest.mark.parametrize("index", FOUR_DIMS)
def test_indices_apart_put_their_dims_first(index):
    x, y = values((2, 2, 3, 4)), values((2, 2, 3, 4), seed=1)
    assert_mirrored(f"x[{index}]", x=x)
    value = "1" if "x" in index else f"y[{index}]"
    assert_mirrored(f"x[{index}] = {value}\nout = x", x=x, y=y)
    assert_gradients_mirrored(f"x[{index}] * 2", x=x)


THROUGH_VIEWS = [
    "x[0][1] = 5",
    "x[1:][0, :2] = y[0, :2]",
    "x.mT[0] = 3",
    "x.view(-1)[3:9] = 1",
    "x[0].t()[1] = 2",
    "x.transpose(0, 2)[1:, 0] = y.transpose(0, 2)[1:, 0]",
    "x[:, 1][x[:, 1] > 0] = 0",
    "x[0][[0, 2]] = y[0, :2]",
    "x.reshape(6, 4)[::2, 1:3] += 1",
    "x[..., 0] *= 2",
    "x[:, [0, 2]] += 1",
    "x[x > 0] = 0",
    "x[x > 0] *= -1",
    "x.unsqueeze(0)[0, 1] = 4",
    "x.squeeze()[0] = 1",
    "x[0].fill_(2)",
    "x[1].zero_()",
    "x[:, 1:].copy_(y[:, 1:])",
    "x[0, 0] = x[1, 1]",
    "x[:] = x.flip(0)",
    "x[0] = x[1]",
    "x[1:] = x[:-1].clone()",
    "x.permute(2, 0, 1)[1] = 0",
    "x.select(1, 0).mul_(3)",
    "x.narrow(2, 1, 2).add_(1)",
    "a, b = x.split(1)\na[:] = b",
    "x.diagonal()[0]",
    "x.chunk(2, 2)[1].sub_(1)",
    "x.unbind(1)[0].neg_()",
    "x.flatten()[5] = 9",
    "x.mT[0] = 1",
    "x[0:0] = 5",
    "x.view(2, 12)[:, ::5] = 1",
    "x.detach()[0] = 5",
    "x.data[1] = 6",
    "x.view(-1)[torch.tensor([1, 1, 2])] = 4",
    "x.index_fill_(0, torch.tensor([0]), 3)",
    "x.masked_fill_(x > 0, 2)",
]


@pytest.mark.parametrize("code", THROUGH_VIEWS)
def test_writing_through_views(code):
    x, y = values((2, 3, 4)), values((2, 3, 4), seed=1)
    assert_mirrored(f"{code}\nout = x", x=x, y=y)


REFUSED = ("[5]", "0.0]", "[4]", "[0, 1]))")
FUNCTIONS = [
    "torch.gather(x, 1, torch.tensor([[0, 2, 2], [1, 0, 0]]))",
    "x.gather(0, torch.tensor([[0, 1]]))",
    "x.gather(-1, torch.tensor([[3], [0], [1]]))",
    "torch.gather(x, 1, index=torch.tensor([[0], [1]]))",
    "x.gather(0, torch.tensor([0, 1]))",
    "x.gather(0, torch.tensor([[5]]))",
    "x.gather(0, torch.tensor([[0.0]]))",
    "torch.take_along_dim(x, torch.tensor([[0], [1], [2]]), 1)",
    "torch.take_along_dim(x, torch.tensor([0, 5]))",
    "torch.take(x, torch.tensor([[0, 5], [11, -1]]))",
    "torch.index_select(x, 0, torch.tensor([2, 0]))",
    "x.index_select(1, torch.tensor([1, 1]))",
    "x.index_select(1, torch.tensor([4]))",
    "x.scatter(0, torch.tensor([[0, 2, 1, 0]]), y[:1])",
    "x.scatter(1, torch.tensor([[0], [1], [3]]), 5.0)",
    "torch.scatter(x, 1, torch.tensor([[0, 1], [1, 2]]), y[:2, :2])",
    "x.scatter_add(0, torch.tensor([[0, 0, 0, 0], [0, 1, 1, 2]]), y[:2])",
    "torch.scatter_add(x, 1, torch.tensor([[0, 0], [1, 1], [2, 2]]), y[:, :2])",
    "x.index_add(0, torch.tensor([0, 0, 2]), y)",
    "torch.index_add(x, 1, torch.tensor([1, 0]), y[:, :2], alpha=2)",
    "x.index_copy(0, torch.tensor([2, 0]), y[:2])",
    "torch.masked_select(x, x > 0)",
    "x.masked_select(y[0] > 0)",
    "x.index_put((torch.tensor([0, 1]),), y[0])",
    "x.index_fill(0, torch.tensor([0, 2]), 3.0)",
    "x.index_put((torch.tensor([0, 0]),), y[:2], accumulate=True)",
]


@pytest.mark.parametrize("code", FUNCTIONS)
def test_functions(code):
    assert_mirrored(code, x=values((3, 4)), y=values((3, 4), seed=1))


@pytest.mark.parametrize("code", [c for c in FUNCTIONS if not any(w in c for w in REFUSED)])
def test_gradients_of_functions(code):
    assert_gradients_mirrored(code, twice=True, x=values((3, 4)), y=values((3, 4), seed=1))


@pytest.mark.parametrize("code", FUNCTIONS[:5] + FUNCTIONS[10:19])
@pytest.mark.parametrize("dim", [0, 1])
def test_gradients_of_functions_then_sums(code, dim):
    if "[0, 1]))" not in code and "[4]" not in code:
        assert_gradients_mirrored(f"{code}.sum({dim})", x=values((3, 4)), y=values((3, 4), seed=1))


@pytest.mark.parametrize(
    "code",
    [
        "torch.nonzero(x)",
        "torch.nonzero(x, as_tuple=True)",
        "x.nonzero()",
        "(x > 0).nonzero()",
        "torch.where(x > 0)",
        "torch.argwhere(x)",
        "torch.bincount(x.abs().flatten())",
        "torch.bincount(x.abs().flatten(), minlength=20)",
        "torch.unique(x)",
        "x.unique()",
        "torch.unique(x, return_counts=True)",
        "torch.unique(x, return_inverse=True)",
        "torch.nn.functional.one_hot(x.abs(), 12)",
        "torch.nn.functional.one_hot(x.abs())",
        "torch.isin(x, torch.tensor([1, 2]))",
        "torch.nn.functional.embedding(x.abs(), torch.arange(30).reshape(10, 3))",
        "torch.searchsorted(torch.tensor([-5, 0, 4]), x)",
    ],
)
def test_functions_of_integers(code):
    assert_mirrored(code, x=values((3, 4), "int64"))


def test_nonzero_of_shapes():
    for shape in [(), (0,), (1,), (2, 0), (2, 3, 2)]:
        assert_mirrored("torch.nonzero(x)", x=values(shape, "int64"))
        assert_mirrored("torch.nonzero(x, as_tuple=True)", x=values(shape, "bool"))


def test_zero_d():
    for code in (
        "x[()]",
        "x[...]",
        "x[None]",
        "x[True]",
        "x[False]",
        "x[0]",
        "x[x > 0]",
        "x[None, ...]",
    ):
        assert_mirrored(code, x=(np.array(1.5), "float64"))
    for code in (
        "x[()] = 4\nout = x",
        "x[...] = 3\nout = x",
        "x[x > 0] = 2\nout = x",
        "x[0] = 1\nout = x",
    ):
        assert_mirrored(code, x=(np.array(1.5), "float64"))
