"""Activations: values and slopes of PyTorch, at the kinks and far out too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from twin import assert_same, numbers, ours

import lowgrad
import lowgrad.nn as nn
import lowgrad.nn.functional as F
from lowgrad.errors import ArgumentError, ShapeError

KINKS = np.array([-800.0, -30.0, -3.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 3.0, 6.0, 30.0, 800.0])
PLAIN = [
    "relu",
    "relu6",
    "hardtanh",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "sigmoid",
    "tanh",
    "silu",
    "mish",
    "softplus",
    "logsigmoid",
    "hardsigmoid",
    "hardswish",
    "softsign",
]
# PyTorch's hardsigmoid has 1/6 in float32, in float64 too.
RELATIVE = {"hardsigmoid": 1e-7}


@pytest.mark.parametrize("name", PLAIN)
def test_values_and_slopes_are_pytorchs(name):
    x = np.concatenate([KINKS, numbers(500, scale=3.0)])

    assert_same(getattr(F, name), getattr(TF, name), x, relative=RELATIVE.get(name, 1e-10))


@pytest.mark.parametrize("name", PLAIN)
def test_nan_stays_nan(name):
    y = getattr(F, name)(ours(np.array([np.nan, 1.0])))

    assert np.isnan(y.numpy()).tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gelu", {"approximate": "tanh"}),
        ("elu", {"alpha": 0.5}),
        ("celu", {"alpha": 2.0}),
        ("leaky_relu", {"negative_slope": 0.25}),
        ("softplus", {"beta": 2.0, "threshold": 4.0}),
        ("hardtanh", {"min_val": -0.5, "max_val": 2.0}),
    ],
)
def test_settings_are_pytorchs(name, arguments):
    def function(x):
        return getattr(F, name)(x, **arguments)

    assert_same(function, lambda x: getattr(TF, name)(x, **arguments), numbers(300, scale=3.0))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin", "glu"])
def test_functions_along_a_dim(name, dim):
    x = numbers(4, 6, scale=40.0)

    assert_same(lambda x: getattr(F, name)(x, dim), lambda x: getattr(TF, name)(x, dim=dim), x)


def test_softmax_does_not_overflow():
    y = F.softmax(lowgrad.tensor([[1e30, 0.0], [-1e30, 0.0]]), dim=1)

    assert y.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_softmax_computes_in_the_given_dtype():
    y = F.softmax(lowgrad.tensor([[1.0, 2.0]], dtype=lowgrad.float16), 1, dtype=lowgrad.float32)

    assert y.dtype is lowgrad.float32


def test_inplace_overwrites_the_input():
    x = lowgrad.tensor([-1.0, 2.0])

    y = F.relu(x, inplace=True)

    assert y is x
    assert x.tolist() == [0.0, 2.0]


def test_inplace_keeps_the_gradient():
    x = lowgrad.tensor([-1.0, 2.0], requires_grad=True)

    F.relu(x * 3.0, inplace=True).sum().backward()

    assert x.grad.tolist() == [0.0, 3.0]


def test_glu_refuses_an_odd_size():
    with pytest.raises(ShapeError, match="must be even, not 3"):
        F.glu(lowgrad.zeros(2, 3))


def test_gelu_refuses_an_unknown_approximation():
    with pytest.raises(ArgumentError, match="'none' or 'tanh', not 'erf'"):
        F.gelu(lowgrad.zeros(2), approximate="erf")


MODULES = [
    ("ReLU", {}),
    ("ReLU", {"inplace": True}),
    ("ReLU6", {}),
    ("SiLU", {}),
    ("Mish", {}),
    ("SELU", {}),
    ("Hardswish", {}),
    ("Hardsigmoid", {}),
    ("Hardtanh", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("LogSigmoid", {}),
    ("Softsign", {}),
    ("LeakyReLU", {"negative_slope": 0.2, "inplace": True}),
    ("ELU", {}),
    ("CELU", {"alpha": 0.5}),
    ("GELU", {"approximate": "tanh"}),
    ("Softplus", {}),
    ("GLU", {}),
    ("Softmax", {"dim": 1}),
    ("LogSoftmax", {"dim": 1}),
]


@pytest.mark.parametrize(("name", "arguments"), MODULES)
def test_modules_are_their_functions_and_print_as_pytorchs(name, arguments):
    module, reference = (getattr(lib, name)(**arguments) for lib in (nn, torch.nn))

    assert repr(module) == repr(reference)
    relative = RELATIVE.get(name.lower(), 1e-10)
    arguments = (lambda x: module(x * 1.0), lambda x: reference(x * 1.0), numbers(3, 4))
    assert_same(*arguments, relative=relative)
