"""Clipping gradients, and parameters as one vector."""

import math

import numpy as np
import pytest
import torch
from twin import assert_equal, numbers, ours, theirs

import lowgrad
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.nn import utils


def with_grads(convert):
    tensors = [convert(numbers(3, 4), True), convert(numbers(5, seed=1), True)]
    for i, tensor in enumerate(tensors):
        tensor.grad = convert(numbers(*tensor.shape, seed=2 + i))
    return [*tensors, convert(numbers(2), True)]  # the last has no gradient


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_clip_grad_norm(norm_type, max_norm):
    a, b = with_grads(ours), with_grads(theirs)

    norm = utils.clip_grad_norm_(a, max_norm, norm_type)
    want = torch.nn.utils.clip_grad_norm_(b, max_norm, norm_type)

    assert_equal(norm, want)
    for x, y in zip(a[:2], b[:2], strict=True):
        assert_equal(x.grad, y.grad)
    assert a[2].grad is None


def test_clip_grad_value():
    a, b = with_grads(ours), with_grads(theirs)

    utils.clip_grad_value_(a, 0.3)
    torch.nn.utils.clip_grad_value_(b, 0.3)

    for x, y in zip(a[:2], b[:2], strict=True):
        assert_equal(x.grad, y.grad, 1e-7)


def test_a_norm_that_is_not_finite_may_be_refused():
    p = lowgrad.ones(2, requires_grad=True)
    p.grad = lowgrad.tensor([1.0, math.inf])

    with pytest.raises(ArgumentError, match=r"norm of order 2\.0 is inf"):
        utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    assert p.grad.tolist() == [1.0, math.inf]


def test_the_norm_of_nothing_is_0():
    assert utils.clip_grad_norm_([], 1.0).item() == 0.0


def test_parameters_to_a_vector_and_back():
    a = with_grads(ours)

    vector = utils.parameters_to_vector(a)
    utils.vector_to_parameters(vector * 2, a)

    assert vector.shape == (19,)
    np.testing.assert_array_equal(a[0].detach().numpy(), numbers(3, 4) * 2)
    np.testing.assert_array_equal(a[2].detach().numpy(), numbers(2) * 2)
    with pytest.raises(ShapeError, match=r"hold 19 elements, vec is \(18,\)"):
        utils.vector_to_parameters(vector[1:], a)
