"""Autocast: PyTorch's dtypes on the CPU, its tables on the GPU, float32 gradients of weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import autocasting

CALLS = {
    "linear": lambda lib, f, x, w: f.linear(x, w),
    "matmul": lambda lib, f, x, w: x @ w,
    "mm": lambda lib, f, x, w: lib.mm(x, w),
    "addmm": lambda lib, f, x, w: lib.addmm(x, x, w),
    "bmm": lambda lib, f, x, w: lib.bmm(x[None], w[None]),
    "sdpa": lambda lib, f, x, w: f.scaled_dot_product_attention(x[None], w[None], x[None]),
    "softmax": lambda lib, f, x, w: f.softmax(x, dim=-1),
    "gelu": lambda lib, f, x, w: f.gelu(x),
    "silu": lambda lib, f, x, w: f.silu(x),
    "layer_norm": lambda lib, f, x, w: f.layer_norm(x, (4,)),
    "exp": lambda lib, f, x, w: x.exp(),
    "sum": lambda lib, f, x, w: x.sum(),
    "mean": lambda lib, f, x, w: x.mean(0),
    "std": lambda lib, f, x, w: x.std(),
    "prod": lambda lib, f, x, w: x.prod(),
    "pow": lambda lib, f, x, w: x**2,
    "add": lambda lib, f, x, w: x + w,
    "cat": lambda lib, f, x, w: lib.cat([x, w]),
    "stack": lambda lib, f, x, w: lib.stack([x, w]),
    "cross_entropy": lambda lib, f, x, w: f.cross_entropy(x, lib.tensor([0, 1, 2, 3])),
    "mse_loss": lambda lib, f, x, w: f.mse_loss(x, w),
    "dropout": lambda lib, f, x, w: f.dropout(x, 0.5),
    "linear of linear": lambda lib, f, x, w: f.linear(f.gelu(f.linear(x, w)), w),
}


@pytest.mark.parametrize("narrow", [False, True], ids=["f32", "mixed"])
@pytest.mark.parametrize("name", CALLS)
def test_dtypes_and_values_on_the_cpu_are_pytorchs(name, narrow):
    rng = np.random.default_rng(0)
    x, w = (rng.uniform(-1, 1, (4, 4)).astype(np.float32) for _ in range(2))

    def result(lib, f):
        a, b = lib.from_numpy(x), lib.from_numpy(w)
        a = a.bfloat16() if narrow else a
        with lib.autocast("cpu"):
            return CALLS[name](lib, f, a, b)

    theirs, ours = result(torch, TF), result(lowgrad, F)

    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
    if name != "dropout":
        expected = theirs.double().numpy()
        np.testing.assert_allclose(ours.double().numpy(), expected, rtol=0.03, atol=0.03)


def test_every_name_in_the_tables_is_a_function_that_there_is():
    places = (lowgrad, lowgrad.Tensor, F)
    for name in autocasting.NAMES:
        found = [p for p in places if hasattr(vars(p).get(name), "_is_autocasting")]
        assert found, f"{name} is nowhere"


def test_weights_have_float32_gradients_and_are_cast_once_in_a_region():
    w = lowgrad.randn(4, 4, requires_grad=True)
    x = lowgrad.randn(3, 4)
    with lowgrad.autocast("cpu"):
        a, b = F.linear(x, w), F.linear(x, w)
        assert len(autocasting.state.casts) == 1
        loss = (a + b).float().sum()
    assert not autocasting.state.casts
    loss.backward()
    assert w.grad.dtype is lowgrad.float32
    np.testing.assert_allclose(w.grad.numpy()[0], 2 * x.sum(0).numpy(), rtol=0.02, atol=0.05)


def test_a_weight_that_changes_inside_is_cast_again():
    w = lowgrad.ones(2, 2, requires_grad=True)
    with lowgrad.autocast("cpu"):
        before = F.linear(lowgrad.ones(1, 2), w)
        with lowgrad.no_grad():
            w.mul_(3)
        after = F.linear(lowgrad.ones(1, 2), w)
    assert (before.tolist(), after.tolist()) == ([[2.0, 2.0]], [[6.0, 6.0]])


def test_regions_nest_and_end():
    x = lowgrad.ones(2, 2)
    with lowgrad.autocast("cpu", dtype=lowgrad.float16):
        assert (x @ x).dtype is lowgrad.float16
        with lowgrad.autocast("cpu", enabled=False):
            assert (x @ x).dtype is lowgrad.float32
            assert not lowgrad.is_autocast_enabled("cpu")
        assert (x @ x).dtype is lowgrad.float16
    with pytest.raises(ZeroDivisionError), lowgrad.autocast("cpu"):
        raise ZeroDivisionError
    assert (x @ x).dtype is lowgrad.float32
    with lowgrad.autocast("cuda"):
        assert (x @ x).dtype is lowgrad.float32, "it is about the GPU's tensors"


def test_it_decorates():
    @lowgrad.autocast("cpu")
    def product(x):
        return x @ x

    assert product(lowgrad.ones(2, 2)).dtype is lowgrad.bfloat16


@pytest.mark.parametrize("where", ["inside", "around"])
def test_a_compiled_function_is_what_the_eager_one_is(where):
    w = lowgrad.randn(8, 8)

    def plain(x):
        return F.softmax(F.linear(x, w), -1) + F.gelu(x @ w).sum()

    def inside(x):
        with lowgrad.autocast("cpu"):
            return plain(x)

    x = lowgrad.randn(3, 8)
    if where == "inside":
        compiled, eager = lowgrad.compile(inside)(x), inside(x)
    else:
        step = lowgrad.compile(plain)
        without = step(x)
        with lowgrad.autocast("cpu"):
            compiled, eager = step(x), plain(x)
        assert without.dtype is lowgrad.float32
        assert step.recordings == 2, "autocast is part of the signature"
        assert step(x).tolist() == without.tolist()
    assert compiled.dtype is eager.dtype
    np.testing.assert_allclose(compiled.float().numpy(), eager.float().numpy(), rtol=0.01)


def test_wrong_arguments_say_what_is_right():
    with pytest.raises(lowgrad.ArgumentError, match="is 'cuda' or 'cpu'"):
        lowgrad.autocast("tpu")
    with pytest.raises(lowgrad.DTypeError, match="float16 or bfloat16"):
        lowgrad.autocast("cpu", dtype=lowgrad.float64)
