"""The same computation in lowgrad and in PyTorch, in float64, values and gradients compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import lowgrad

RELATIVE = 1e-10


def ours(array: Any, requires_grad: bool = False) -> lowgrad.Tensor:
    """`array` as a tensor of ours."""
    return lowgrad.from_numpy(np.array(array)).requires_grad_(requires_grad)


def theirs(array: Any, requires_grad: bool = False) -> torch.Tensor:
    """`array` as a tensor of PyTorch's."""
    return torch.from_numpy(np.array(array)).requires_grad_(requires_grad)


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal float64 numbers."""
    return np.random.default_rng(seed).normal(size=shape) * scale


def assert_equal(got: lowgrad.Tensor, want: torch.Tensor, relative: float = RELATIVE) -> None:
    """Fail unless shapes, dtypes and values agree; NaN only where PyTorch has it."""
    assert tuple(got.shape) == tuple(want.shape)
    assert str(got.dtype).partition(".")[2] == str(want.dtype).partition(".")[2]
    np.testing.assert_allclose(
        got.detach().numpy(), want.detach().numpy(), rtol=relative, atol=relative * 1e-2
    )


def assert_same(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    *arrays: Any,
    relative: float = RELATIVE,
) -> None:
    """Fail unless both functions give the same result and the same gradients.

    Floating arrays get gradients, of the result's product with fixed random numbers.
    """
    floating = [np.asarray(a).dtype.kind == "f" for a in arrays]
    a = [ours(x, f) for x, f in zip(arrays, floating, strict=True)]
    b = [theirs(x, f) for x, f in zip(arrays, floating, strict=True)]

    got, want = function(*a), reference(*b)

    assert_equal(got, want, relative)
    if not got.requires_grad:
        return
    seed = numbers(*want.shape, seed=99)
    (got * ours(seed)).sum().backward()
    (want * theirs(seed)).sum().backward()
    for x, y in zip(a, b, strict=True):
        if y.grad is None:
            assert x.grad is None
        else:
            assert_equal(x.grad, y.grad, relative)


def same_weights(module: lowgrad.nn.Module, reference: torch.nn.Module) -> None:
    """Make both modules hold the reference's weights, in float64."""
    reference.double()
    module.double()
    module.load_state_dict(reference.state_dict())


def assert_same_module(module: lowgrad.nn.Module, reference: torch.nn.Module, *arrays: Any) -> None:
    """Fail unless both modules, given the same weights, agree with all their gradients."""
    same_weights(module, reference)

    assert_same(module, reference, *arrays)

    for (name, p), (other, q) in zip(
        module.named_parameters(), reference.named_parameters(), strict=True
    ):
        assert name == other
        assert (p.grad is None) == (q.grad is None)
        if q.grad is not None:
            assert_equal(p.grad, q.grad)
