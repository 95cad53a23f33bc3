"""One expression, evaluated by lowgrad and by PyTorch on the same data, must mean the same.

An expression is a string over `torch` (either library), its inputs' names, and Python's builtins;
it may be several statements that leave their result in `out`.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import lowgrad

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
# Of the result's magnitude: two implementations may each be off by an ulp or two.
RELATIVE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def evaluate(library: Any, code: str, inputs: dict[str, Any]) -> Any:
    """The value of the expression, or `out` after the statements."""
    scope = {"torch": library, "np": np, **inputs}
    if "\n" not in code and "out =" not in code:
        return eval(code, scope)
    exec(code, scope)
    return scope["out"]


def ours(data: Any, dtype: str | None = None, requires_grad: bool = False) -> lowgrad.Tensor:
    """A lowgrad tensor."""
    kind = None if dtype is None else getattr(lowgrad, dtype)
    return lowgrad.tensor(data, dtype=kind, requires_grad=requires_grad)


def theirs(data: Any, dtype: str | None = None, requires_grad: bool = False) -> torch.Tensor:
    """The PyTorch tensor that holds the same."""
    kind = None if dtype is None else getattr(torch, dtype)
    return torch.tensor(np.asarray(data), dtype=kind, requires_grad=requires_grad)


def as_numpy(x: Any) -> Any:
    """A tensor's values; bfloat16 in both libraries as ml_dtypes.bfloat16."""
    if isinstance(x, torch.Tensor) and x.dtype is torch.bfloat16:
        return x.detach().float().numpy().astype(ml_dtypes.bfloat16)
    return x.detach().numpy(force=True) if isinstance(x, torch.Tensor) else x.detach().numpy()


def name_of(dtype: Any) -> str:
    """`float32`, whichever library's dtype it is."""
    return str(dtype).partition(".")[2]


def assert_same(got: Any, want: Any, scale: float = 1.0) -> None:
    """Fail unless kinds, shapes, dtypes and values agree."""
    if isinstance(want, torch.Tensor):
        assert isinstance(got, lowgrad.Tensor), f"{got!r} is no tensor"
        assert tuple(got.shape) == tuple(want.shape)
        assert name_of(got.dtype) == name_of(want.dtype)
        assert_numbers(as_numpy(got), as_numpy(want), name_of(want.dtype), scale)
    elif isinstance(want, (tuple, list)):
        assert len(got) == len(want)
        for mine, other in zip(got, want, strict=True):
            assert_same(mine, other, scale)
    elif isinstance(want, torch.dtype):
        assert name_of(got) == name_of(want)
    elif isinstance(want, float):
        assert isinstance(got, float)
        assert_numbers(np.array(got), np.array(want), "float32", scale)
    else:
        assert got == want
        assert type(got) is type(want)


def assert_numbers(got: Any, want: Any, dtype: str, scale: float) -> None:
    """Fail unless the arrays agree to the dtype's precision; NaN and infinities exactly."""
    if dtype not in RELATIVE:
        np.testing.assert_array_equal(got, want)
        return
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.abs(want[np.isfinite(want)])
    size = max(float(finite.max()) if finite.size else 0.0, 1e-3)  # below it, sums cancelled
    allowed = RELATIVE[dtype] * scale
    np.testing.assert_allclose(got, want, rtol=allowed, atol=allowed * size)


REFUSALS = (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError)


def assert_mirrored(code: str, scale: float = 1.0, **data: Any) -> None:
    """Fail unless both libraries give the same result, or both refuse."""
    try:
        want = evaluate(torch, code, {k: theirs(*_typed(v)) for k, v in data.items()})
    except REFUSALS as error:
        with pytest.raises((lowgrad.LowgradError, TypeError)):  # noqa: PT012
            got = evaluate(lowgrad, code, {k: ours(*_typed(v)) for k, v in data.items()})
            raise AssertionError(f"PyTorch refuses ({error}), lowgrad gives {got}") from None
    else:
        got = evaluate(lowgrad, code, {k: ours(*_typed(v)) for k, v in data.items()})
        assert_same(got, want, scale)


def assert_gradients_mirrored(code: str, twice: bool = False, **data: Any) -> None:
    """Fail unless both libraries give the same float64 gradients (and theirs, if `twice`)."""
    found: list[list[Any]] = []
    for library, make in ((torch, theirs), (lowgrad, ours)):
        inputs = {k: make(*_typed(v)) for k, v in data.items()}
        leaves = [x.requires_grad_() for x in inputs.values() if x.is_floating_point()]
        try:
            out = evaluate(library, code, {k: x * 1 for k, x in inputs.items()})
        except REFUSALS:
            if library is lowgrad:
                raise
            return assert_mirrored(code, **data)
        gradients = _gradients(library, make, out, leaves, twice)
        if twice:
            # Where PyTorch's gradient is a constant, ours may have a (zero) gradient, or not.
            flowing = any(x.requires_grad for x in gradients)
            second = _gradients(library, make, gradients, leaves, False) if flowing else None
            gradients += second or [x * 0 for x in leaves]
        found.append(gradients)
    assert_same(found[1], found[0], scale=10.0)
    return None


def _gradients(library: Any, make: Any, out: Any, leaves: list[Any], twice: bool) -> list[Any]:
    outputs = list(out) if isinstance(out, (tuple, list)) else [out]
    if not all(hasattr(x, "backward") for x in outputs):
        outputs = []  # numbers
    rng = np.random.default_rng(5)
    seeds = [make(rng.normal(size=tuple(x.shape)), "float64") for x in outputs]
    seeds = [s for s, x in zip(seeds, outputs, strict=True) if x.requires_grad]
    outputs = [x for x in outputs if x.requires_grad]
    if not outputs:  # constant in the leaves, whether or not a library says so
        return [x.detach() * 0 for x in leaves]
    return list(
        library.autograd.grad(
            outputs, leaves, seeds, create_graph=twice, allow_unused=True, materialize_grads=True
        )
    )


def _typed(value: Any) -> tuple[Any, str | None]:
    """(data, dtype): an array brings its own, a pair states it."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        return value
    return value, None


def values(shape: tuple[int, ...], dtype: str = "float64", seed: int = 0) -> tuple[Any, str]:
    """Numbers of either sign (where there are), none of them equal if floating."""
    rng = np.random.default_rng([seed, *shape])
    if dtype in RELATIVE:
        count = int(np.prod(shape))
        spread = (np.arange(count) - count / 2 + 0.25) / max(count, 2) * 4
        return rng.permutation(spread).reshape(shape), dtype
    if dtype == "bool":
        return rng.random(shape) < 0.5, dtype
    return rng.integers(0 if dtype == "uint8" else -9, 9, shape), dtype
