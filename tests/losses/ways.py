"""Running a loss: by PyTorch in any dtype, and by lowgrad eagerly, compiled, or under a budget."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from losses.loss import Array, Arrays, Loss, Size

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.compiler import Compiled

SEED = 7  # of the random numbers that dropout draws

Results = dict[str, Array]  # "loss", and the gradient of each array that is learned


def expected(loss: Loss, size: Size, dtype: str = "float64", inputs: str = "float32") -> Results:
    """PyTorch's, computed in `dtype` from arrays that are exact in `inputs`."""
    learned, given = (exact_in(inputs, arrays) for arrays in loss.arrays(size))
    leaves = {k: _theirs(a, dtype).requires_grad_() for k, a in learned.items()}
    others = {k: _theirs(a, dtype) for k, a in given.items()}
    lowgrad.manual_seed(SEED)
    value = loss.function(torch, _with_our_dropout(), SimpleNamespace(**leaves, **others))
    value.backward()
    zero = {k: torch.zeros_like(a) for k, a in leaves.items()}
    gradients = {k: zero[k] if a.grad is None else a.grad for k, a in leaves.items()}
    return {k: a.detach().double().numpy() for k, a in {"loss": value, **gradients}.items()}


def eager(loss: Loss, size: Size, dtype: str = "float32") -> Results:
    """lowgrad's, each op at once."""
    step, arguments = step_of(loss, size, dtype)
    return _results(loss, size, step(*arguments))


def compiled(loss: Loss, size: Size, dtype: str = "float32") -> Results:
    """lowgrad's, as one graph."""
    step, arguments = step_of(loss, size, dtype)
    return _results(loss, size, lowgrad.compile(step)(*arguments))


def budgeted(loss: Loss, size: Size, dtype: str = "float32") -> Results:
    """lowgrad's, as one graph that has no room for the logits, and indeed does not hold them."""
    step, arguments = step_of(loss, size, dtype)
    tight = lowgrad.compile(step, memory=budget_bytes(loss, size, dtype))
    results = _results(loss, size, tight(*arguments))
    assert_never_whole(tight.lower(*arguments), logits_shape(loss, size))
    return results


WAYS: dict[str, Callable[..., Results]] = {"eager": eager, "compiled": compiled}
# The ways for which the whole logits must not exist.
TIGHT_WAYS: dict[str, Callable[..., Results]] = {"budgeted": budgeted}


def step_of(loss: Loss, size: Size, dtype: str) -> tuple[Callable[..., Any], list[Any]]:
    """A step that returns the loss and its gradients, and the step's arguments."""
    learned, given = (exact_in(dtype, arrays) for arrays in loss.arrays(size))
    names, trained, function = (*learned, *given), tuple(learned), loss.function

    def step(*tensors: Any) -> Any:
        t = SimpleNamespace(**dict(zip(names, tensors, strict=True)))
        value = function(lowgrad, F, t)
        value.backward()
        return value, *(getattr(t, name).grad for name in trained)

    lowgrad.manual_seed(SEED)
    leaves = [_ours(a, dtype).requires_grad_() for a in learned.values()]
    return step, [*leaves, *(_ours(a, dtype) for a in given.values())]


def _results(loss: Loss, size: Size, returned: Any) -> Results:
    learned = loss.arrays(size)[0]
    value, *gradients = (
        None if r is None else r.detach().numpy().astype(np.float64) for r in returned
    )
    results = {"loss": value}
    for (name, array), gradient in zip(learned.items(), gradients, strict=True):
        results[name] = np.zeros(array.shape) if gradient is None else gradient
    return results


# The budget --------------------------------------------------------------------------------------


def logits_shape(loss: Loss, size: Size) -> tuple[int, int]:
    """(rows, classes) of the logits, whatever the shape of the loss's input is."""
    arrays = {k: a for group in loss.arrays(size) for k, a in group.items()}
    rows = arrays["x"].shape[:-1] if "x" in arrays else arrays["tokens"].shape
    return int(np.prod(rows)), arrays["weight"].shape[0]


def budget_bytes(loss: Loss, size: Size, dtype: str = "float32") -> int:
    """The arguments, and three quarters of what the logits alone would take."""
    step, arguments = step_of(loss, size, dtype)
    plan = lowgrad.compile(step).lower(*arguments).plan
    rows, classes = logits_shape(loss, size)
    whole = rows * classes * getattr(lowgrad, dtype).itemsize
    return plan.state_bytes + plan.argument_bytes + whole * 3 // 4


def assert_never_whole(step: Compiled, shape: tuple[int, int]) -> None:
    """Fail if a buffer of the plan has as many elements as there are logits, of whatever dtype.

    Temporaries of one node have no dtype of their own: they must be less than float32 logits.
    """
    elements = shape[0] * shape[1]
    for buffer in step.plan.buffers:
        held = buffer.nbytes // 4 if buffer.type is None else int(np.prod(buffer.type.shape))
        assert held < elements, f"{buffer} is as large as all logits"


# Tensors -----------------------------------------------------------------------------------------


def exact_in(dtype: str, arrays: Arrays) -> Arrays:
    """Floating arrays rounded to `dtype` and widened again, so that both sides get the same."""
    kind = getattr(lowgrad, dtype).numpy
    return {
        k: a.astype(kind).astype(np.float64) if a.dtype.kind == "f" else a
        for k, a in arrays.items()
    }


def _ours(array: Array, dtype: str) -> Any:
    if array.dtype.kind != "f":
        return lowgrad.from_numpy(array)
    return lowgrad.from_numpy(array.astype(getattr(lowgrad, dtype).numpy))


def _theirs(array: Array, dtype: str) -> Any:
    made = torch.from_numpy(np.array(array))
    return made.to(getattr(torch, dtype)) if array.dtype.kind == "f" else made


def _with_our_dropout() -> Any:
    """PyTorch's functions, but for dropout, which zeroes what lowgrad's random stream says."""
    functions = SimpleNamespace(**vars(TF))

    def dropout(x: Any, p: float) -> Any:
        draw = lowgrad.rand(tuple(x.shape)).numpy()
        return torch.where(torch.from_numpy(draw) >= p, x / (1.0 - p), torch.zeros_like(x))

    functions.dropout = dropout
    return functions
