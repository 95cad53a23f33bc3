"""First values: their distributions, and PyTorch's bounds."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

import lowgrad
import lowgrad.nn as nn
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.nn import init

SHAPE = (120, 80, 3)
FAN_IN, FAN_OUT = 240, 360
GAIN = math.sqrt(2 / (1 + 0.5**2))
LEAKY = {"a": 0.5, "nonlinearity": "leaky_relu"}
DISTRIBUTIONS = {
    "uniform_": ({"a": -1.0, "b": 3.0}, scipy.stats.uniform(-1, 4)),
    "normal_": ({"mean": 2.0, "std": 0.5}, scipy.stats.norm(2, 0.5)),
    "trunc_normal_": (
        {"mean": 1.0, "std": 2.0, "a": -1.0, "b": 2.0},
        scipy.stats.truncnorm(-1, 0.5, 1, 2),
    ),
    "xavier_uniform_": (
        {"gain": 2.0},
        scipy.stats.uniform(-2 * math.sqrt(6 / 600), 4 * math.sqrt(6 / 600)),
    ),
    "xavier_normal_": ({"gain": 2.0}, scipy.stats.norm(0, 2 * math.sqrt(2 / 600))),
    "kaiming_uniform_": (
        LEAKY,
        scipy.stats.uniform(-GAIN * math.sqrt(3 / FAN_IN), 2 * GAIN * math.sqrt(3 / FAN_IN)),
    ),
    "kaiming_normal_": (
        {**LEAKY, "mode": "fan_out"},
        scipy.stats.norm(0, GAIN / math.sqrt(FAN_OUT)),
    ),
}


@pytest.mark.parametrize(("name", "case"), DISTRIBUTIONS.items(), ids=DISTRIBUTIONS)
def test_draws_follow_their_distribution(name, case):
    arguments, distribution = case
    lowgrad.manual_seed(0)
    tensor = lowgrad.zeros(SHAPE)

    assert getattr(init, name)(tensor, **arguments) is tensor

    test = scipy.stats.kstest(tensor.numpy().ravel(), distribution.cdf)
    assert test.pvalue > 1e-3


def test_the_same_seed_gives_the_same_layer():
    weights = []
    for _ in range(2):
        lowgrad.manual_seed(3)
        weights.append(nn.Linear(4, 4).weight.tolist())

    assert weights[0] == weights[1]


def test_constants():
    tensor = lowgrad.zeros(2, 3)

    assert init.constant_(tensor, 0.5).tolist() == [[0.5] * 3] * 2
    assert init.ones_(tensor).tolist() == [[1.0] * 3] * 2
    assert init.eye_(tensor).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert init.zeros_(tensor).tolist() == [[0.0] * 3] * 2


def test_a_parameter_may_be_filled_though_it_requires_a_gradient():
    parameter = nn.Parameter(lowgrad.zeros(2))

    init.ones_(parameter)

    assert parameter.requires_grad
    assert parameter.is_leaf
    assert parameter.grad_fn is None


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 2, 3)])
def test_orthogonal(shape):
    q = init.orthogonal_(lowgrad.zeros(shape, dtype=lowgrad.float64), gain=2.0).numpy()

    matrix = q.reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "selu"])
def test_gains_are_pytorchs(name):
    assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)


def test_gain_of_leaky_relu():
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)
    with pytest.raises(ArgumentError, match="'step' is not known"):
        init.calculate_gain("step")


def test_what_has_no_fans_is_refused():
    with pytest.raises(ShapeError, match=r"xavier_normal_: needs two axes, not shape \(3,\)"):
        init.xavier_normal_(lowgrad.zeros(3))
    with pytest.raises(ArgumentError, match="'fan_in' or 'fan_out', not 'fan'"):
        init.kaiming_normal_(lowgrad.zeros(3, 3), mode="fan")


@pytest.mark.parametrize("name", ["Linear", "Bilinear", "Embedding"])
def test_layers_start_like_pytorchs(name):
    lowgrad.manual_seed(0)
    torch.manual_seed(0)
    sizes = {"Linear": (50, 400), "Bilinear": (20, 10, 100), "Embedding": (200, 100)}[name]
    module, reference = (getattr(lib, name)(*sizes) for lib in (nn, torch.nn))

    for p, q in zip(module.parameters(), reference.parameters(), strict=True):
        test = scipy.stats.ks_2samp(p.detach().numpy().ravel(), q.detach().numpy().ravel())
        assert test.pvalue > 1e-3
