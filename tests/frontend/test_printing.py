import numpy as np
import pytest
import torch
from mirror import ours, theirs

import lowgrad

CASES = [
    3,
    2.5,
    True,
    [1, 2, 3],
    [1.0, 2, 3],
    [1.5, 2.25],
    [True, False],
    [[1.0, 2], [3, 4]],
    [],
    [[]],
    [0.1, 0.123456],
    [1e-8, 1.0],
    [1e10, 1.0],
    [1e5, 1.5],
    [float("nan"), 1],
    [float("inf"), 1],
    [float("inf"), 1.5],
    [-1.0, 1],
    [1000000.0, 2],
    [[1, -20], [300, 4]],
    [1e-5],
    [123456.0],
    [0.00001, 0.5],
    [1234.5678, 0.001],
    [[[1, 2], [3, 4]]],
    [-0.0, 0.0],
    [1.5, 1500.0],
    [1.5, 1501.0],
    [0.0001, 0.01],
    [1e38, 1.0],
]
LARGE = [
    np.arange(2000),
    np.arange(2000.0),
    np.arange(2000.0).reshape(40, 50),
    np.arange(30) / 7,
    np.zeros((3, 0)),
    np.arange(40),
]


@pytest.mark.parametrize("data", CASES, ids=str)
def test_like_pytorch(data):
    assert repr(lowgrad.tensor(data)) == repr(torch.tensor(data))


@pytest.mark.parametrize("data", LARGE, ids=lambda a: str(a.shape) + a.dtype.name)
def test_summaries_and_line_breaks(data):
    assert repr(ours(data, "float32")) == repr(theirs(data, "float32"))
    assert repr(ours(data, "int64")) == repr(theirs(data, "int64")).replace("torch", "lowgrad")


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "bfloat16", "int32", "int8", "uint8", "bool"]
)
def test_dtype_is_named_if_not_the_default(dtype):
    assert repr(ours([0, 1, 1], dtype)) == repr(theirs([0, 1, 1], dtype)).replace(
        "torch.", "lowgrad."
    )


def test_gradients_are_shown():
    x = lowgrad.tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "tensor([1., 2.], requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 4.], grad_fn=<mul>)"
    assert str(x.detach()) == "tensor([1., 2.])"


def test_format():
    assert f"{lowgrad.tensor(1.23456):.2f}" == "1.23"
    assert f"{lowgrad.tensor([1.0])}" == "tensor([1.])"
    assert f"{lowgrad.tensor(3):d}" == "3"


def test_sizes_and_devices():
    assert repr(lowgrad.zeros(2, 3).shape) == "lowgrad.Size([2, 3])"
    assert repr(lowgrad.zeros(2).device) == "device(type='cpu')"
    assert str(lowgrad.zeros(2).device) == "cpu"
