import itertools

import numpy as np
import pytest
import torch
from mirror import DTYPES, assert_gradients_mirrored, assert_mirrored, assert_same, values

import lowgrad
from lowgrad import AliasError, AutogradError, DTypeError, ShapeError

CODES = [
    "x.add_(1)",
    "x.add_(y, alpha=2)",
    "x.sub_(y)",
    "x.mul_(2.5)",
    "x.div_(y)",
    "x.pow_(2)",
    "x.neg_()",
    "x.abs_()",
    "x.exp_()",
    "x.clamp_(-0.5, 0.5)",
    "x.clamp_(min=0)",
    "x.zero_()",
    "x.fill_(3)",
    "x.fill_(y[0, 0])",
    "x.copy_(y)",
    "x.copy_(y[0])",
    "x.copy_(2)",
    "x.relu_()",
    "x.sigmoid_()",
    "x.tanh_()",
    "x.floor_()",
    "x.round_()",
    "x.sqrt_()",
    "x.masked_fill_(y > 0, 9)",
    "x.lerp_(y, 0.5)",
    "x.addcmul_(y, y, value=0.1)",
    "x.addcdiv_(y, y)",
    "x.scatter_(0, torch.tensor([[0, 1, 1]]), 5.0)",
    "x.lt_(y)",
    "x.eq_(x)",
    "x.scatter_add_(0, torch.tensor([[0, 0, 1]]), y[:1])",
    "x.index_add_(0, torch.tensor([1]), y[:1])",
    "x.index_copy_(0, torch.tensor([1]), y[:1])",
    "x.index_fill_(1, torch.tensor([0]), 2.0)",
    "x.index_put_((torch.tensor([0]),), y[0])",
    "x.tril_()",
    "x.triu_(1)",
    "x.remainder_(0.7)",
    "x.maximum(y)",
    "x.unsqueeze_(0)",
    "x.squeeze_()",
    "x.t_()",
    "x.transpose_(0, 1)",
    "x.detach_()",
    "x.requires_grad_(False)",
    "x.resize_(3, 2)",
    "x.set_(y)",
    "x.swap_(y)",
    "x.logical_not_()",
    "x.sign_()",
    "x.reciprocal_()",
    "x.rsqrt_()",
    "x.cos_()",
    "x.erf_()",
    "x.fill_(torch.tensor([1.0]))",
    "x.add_(torch.ones(2, 2, 3))",
    "x.copy_(torch.ones(2, 2, 3))",
    "x.fill_diagonal_(1)",
    "x.nan_to_num_()",
    "x.cumsum_(0)",
    "x.clip_(0, 1)",
    "x.bitwise_not_()",
    "x.zero_().add_(1).mul_(3)",
]
ABSENT = (
    "unsqueeze_",
    "squeeze_",
    ".t_",
    "transpose_",
    "resize_",
    ".set_",
    "swap_",
    "fill_diagonal_",
    "cumsum_",
)
CODES = [c for c in CODES if not any(name in c for name in ABSENT)]
STATEMENTS = [
    "x += 1",
    "x -= y",
    "x *= 2",
    "x /= y",
    "x **= 2",
    "x //= 0.7",
    "x %= 0.7",
    "x[0] += 1",
    "x[:, 1:] *= y[:, 1:]",
    "x[0] = y[1]",
    "z = x\nz += 1",
    "z = x[0]\nz += 1",
    "z = x.clone()\nz += 1",
    "z = x.view(-1)\nz *= 2",
    "z = x.contiguous()\nz.zero_()",
    "z = x.to(x.dtype)\nz.zero_()",
    "z = x.double()\nz.zero_()",
    "z = x.float()\nz.zero_()",
    "z = x.reshape(2, 3)\nz.zero_()",
    "z = x.detach()\nz.zero_()",
    "z = x.data\nz += 3",
    "x.data = y\nx += 1",
    "x.data.mul_(2)",
    "z = x[[0, 1]]\nz += 1",
    "z = x + 0\nz.zero_()",
    "z = x.expand(2, 3)\nz += 1",
    "z = torch.as_tensor(x)\nz += 1",
    "z = x.cpu()\nz += 1",
    "z = x.flatten()\nz += 1",
    "z = x.T\nz[0] = 1",
    "z = x.requires_grad_(False)\nz += 1",
    "z = torch.nn.functional.dropout(x, 0.5, False)\nz += 1",
    "z = x.unsqueeze(0).squeeze(0)\nz += 1",
    "x[0], x[1] = x[1].clone(), x[0].clone()",
    "x += x",
    "x[0] += x[1]",
    "x[:, 0] = x[:, 1]",
    "z = x.type(x.dtype)\nz += 1",
]


@pytest.mark.parametrize("code", CODES)
def test_functions(code):
    x, y = (np.abs(values((2, 3))[0]) + 0.25, "float64"), values((2, 3), seed=1)
    assert_mirrored(f"{code}\nout = x", 4, x=x, y=y)
    assert_mirrored(f"out = [{code}, x]", 4, x=x, y=y)
    if "detach" not in code and "requires" not in code:
        assert_gradients_mirrored(
            f"z = x * 1\n{code.replace('x.', 'z.', 1)}\nout = z * z", x=x, y=y
        )


@pytest.mark.parametrize("code", STATEMENTS)
def test_statements(code):
    x, y = (np.abs(values((2, 3))[0]) + 0.25, "float64"), values((2, 3), seed=1)
    assert_mirrored(f"{code}\nout = x", 4, x=x, y=y)
    assert_mirrored(f"{code}\nout = x", 4, x=(x[0], "float32"), y=(y[0], "float32"))


@pytest.mark.parametrize("operator", ["+=", "-=", "*=", "/=", "//=", "**=", "&="])
def test_every_pair_of_dtypes_fits_or_is_refused(operator):
    for a, b in itertools.product(DTYPES, DTYPES):
        if {a, b} != {"uint8", "int8"}:
            code = f"x {operator} y\nout = x"
            assert_mirrored(code, 2, x=([1, 2, 3], a), y=([1, 1, 1], b))
    for a, scalar in itertools.product(DTYPES, ["True", "2", "1.5"]):
        assert_mirrored(f"x {operator} {scalar}\nout = x", 2, x=([1, 2, 3], a))


# Every order of reads and writes over three overlapping views of one base.
VIEWS = {"base": "base", "row": "base[1]", "columns": "base[:, 1:]", "turned": "base.T"}
ACTIONS = [
    ("row", "write"),
    ("columns", "write"),
    ("turned", "write"),
    ("base", "write"),
    ("row", "read"),
    ("columns", "read"),
    ("turned", "read"),
]


def run_actions(library, actions):
    """The values read, and those at the end, after doing the actions in order."""
    base = library.arange(6.0).reshape(2, 3) * 1
    scope = {"base": base}
    made = {name: eval(code, scope) for name, code in VIEWS.items()}
    seen = []
    for step, (name, action) in enumerate(actions):
        if action == "write":
            made[name].mul_(2).add_(step + 1)
        else:
            seen.append(made[name] + 0)
    return seen + [x + 0 for x in made.values()]


@pytest.mark.parametrize("first", ACTIONS, ids="-".join)
def test_every_order_of_reads_and_writes_through_views(first):
    for rest in itertools.product(ACTIONS, repeat=3):
        actions = [first, *rest]
        assert_same(run_actions(lowgrad, actions), run_actions(torch, actions))


@pytest.mark.parametrize("first", ["row", "columns", "turned", "base"])
def test_gradients_through_every_order_of_writes(first):
    for second, third in itertools.product(VIEWS, repeat=2):
        lines = ["base = x * 1"] + [f"{n} = {code}" for n, code in VIEWS.items()]
        lines += [f"{n}.mul_({n} * 0.5)" for n in (first, second, third)]
        assert_gradients_mirrored(
            "\n".join([*lines, "out = base * base + turned.T"]), x=values((2, 3))
        )


def test_what_cannot_be_written():
    x = lowgrad.ones(1, 3)
    with pytest.raises(AliasError, match="repeats memory"):
        x.expand(4, 3).add_(1)
    with pytest.raises(AliasError, match="repeats memory"):
        x.expand(4, 3)[0] = 2
    with pytest.raises(AutogradError, match="leaf"):
        lowgrad.ones(2, requires_grad=True).add_(1)
    with pytest.raises(AutogradError, match="leaf"):
        lowgrad.ones(2, requires_grad=True)[0] = 1
    with pytest.raises(DTypeError, match="cannot hold"):
        lowgrad.ones(2, dtype=lowgrad.int64).add_(1.5)
    with pytest.raises(ShapeError, match="does not fit"):
        lowgrad.ones(2).add_(lowgrad.ones(3, 2))


def test_leaves_may_be_written_under_no_grad_and_stay_leaves():
    x = lowgrad.ones(2, requires_grad=True)
    with lowgrad.no_grad():
        x += 1
        x[0] = 5
    x.data[1] = 7
    x.detach().mul_(2)
    assert x.tolist() == [10, 14]
    assert x.is_leaf
    assert x.requires_grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [20, 28]


def test_a_value_saved_for_the_derivative_is_not_overwritten():
    """PyTorch refuses to differentiate here; values are immutable in lowgrad, so it is right."""
    x = lowgrad.tensor([2.0, 3.0], requires_grad=True)
    y = x * 1
    z = y * y
    y += 100
    z.sum().backward()
    assert x.grad.tolist() == [4, 6]
