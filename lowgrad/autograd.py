"""Gradients, with PyTorch's names: `backward`, `grad`, `no_grad`, `enable_grad`, ..."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lowgrad import devices, dispatch
from lowgrad.errors import AutogradError, ShapeError
from lowgrad.ir.op import REGISTRY
from lowgrad.tape import Ref
from lowgrad.tensor import FreedGradient, Tensor, method, wrap

Tensors = Tensor | Sequence[Tensor]


def backward(
    tensors: Tensors,
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensors | None = None,
) -> None:
    """Add the gradients of sum(tensors * grad_tensors) to `.grad` of the leaves (or of `inputs`).

    grad_tensors: shapes of `tensors`; None stands for 1 and needs a tensor of one element.
    Raises AutogradError if a tensor needs no gradient, is no scalar, or its tape was freed.
    """
    roots = _as_tuple(tensors)
    targets: list[Tensor | None]
    seeds = _seeds("backward", roots, grad_tensors)
    refs = [t._ref for t in roots]
    if inputs is None:
        # The leaves as they were when used: one may have been updated since.
        wrt = [r for r in dispatch.leaves_of(refs) if _owner(r) is not None]
        targets = [_owner(r) for r in wrt]
    else:
        targets = list(_as_tuple(inputs))
        wrt = [t._ref for t in _as_tuple(inputs)]
    found = dispatch.gradients_of(
        refs, seeds, wrt, retain=bool(retain_graph), create_graph=create_graph
    )
    for tensor, gradient in zip(targets, found, strict=True):
        if gradient is not None and tensor is not None:
            _accumulate(tensor, gradient, create_graph)


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of sum(outputs * grad_outputs) with respect to `inputs`; `.grad` is left alone.

    create_graph: the gradients can be differentiated again.
    allow_unused: None for inputs that the outputs do not depend on, instead of an error.
    """
    roots, wrt = _as_tuple(outputs), _as_tuple(inputs)
    for position, tensor in enumerate(wrt):
        if not tensor.requires_grad:
            raise AutogradError(f"grad: input {position} does not require a gradient")
    found = dispatch.gradients_of(
        [t._ref for t in roots],
        _seeds("grad", roots, grad_outputs),
        [t._ref for t in wrt],
        retain=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
    )
    return tuple(
        _result(position, tensor, ref, bool(allow_unused), materialize_grads)
        for position, (tensor, ref) in enumerate(zip(wrt, found, strict=True))
    )


def _result(
    position: int, tensor: Tensor, ref: Ref | None, allow_unused: bool, materialize: bool
) -> Tensor | None:
    if ref is not None:
        return wrap(ref)
    if materialize:
        return wrap(_constant_like(tensor._ref, 0))
    if allow_unused:
        return None
    raise AutogradError(
        f"grad: the outputs do not depend on input {position}",
        fix="pass allow_unused=True to get None for it",
    )


@method("backward")
def _backward_method(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensors | None = None,
) -> None:
    """Add d(sum(self * gradient)) / d(leaf) to `.grad` of every leaf: see `autograd.backward`."""
    backward((self,), (gradient,), retain_graph, create_graph, inputs)


def _as_tuple(tensors: Tensors) -> tuple[Tensor, ...]:
    return (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)


def _owner(ref: Ref) -> Tensor | None:
    """The leaf tensor that `ref` belongs to, unless it is gone."""
    if ref.leaf is None:
        return None
    tensor: Tensor | None = ref.leaf()
    return tensor


def _seeds(
    what: str, roots: Sequence[Tensor], given: Tensor | Sequence[Tensor | None] | None
) -> list[Ref]:
    gradients: Sequence[Tensor | None]
    if given is None:
        gradients = [None] * len(roots)
    else:
        gradients = (given,) if isinstance(given, Tensor) else given
    return [_seed(what, root, g) for root, g in zip(roots, gradients, strict=True)]


def _seed(what: str, root: Tensor, gradient: Tensor | None) -> Ref:
    if not root.requires_grad:
        raise AutogradError(
            f"{what}: the tensor requires no gradient and was not computed from one that does",
            operands=[f"tensor  {root._ref.type}"],
            fix="set requires_grad=True on the leaves, and compute outside of no_grad",
        )
    if gradient is not None:
        if gradient.shape != root.shape:
            raise ShapeError(
                f"{what}: the gradient is {tuple(gradient.shape)}, the tensor {tuple(root.shape)}"
            )
        ref, dtype = gradient._ref, root._ref.type.dtype
        if ref.type.dtype is dtype:
            return ref
        return dispatch.apply(REGISTRY["cast"], (ref,), {"dtype": dtype})[0]
    if root.numel() != 1:
        raise AutogradError(
            f"{what}: the tensor has {root.numel()} elements; "
            "the gradient can be left out only for one",
            operands=[f"tensor  {root._ref.type}"],
            fix="reduce it, loss.mean().backward(), or pass gradient=",
        )
    return _constant_like(root._ref, 1)


def _constant_like(ref: Ref, value: float) -> Ref:
    with dispatch.grad_mode(False), dispatch.beside(ref):
        attrs = {"shape": ref.type.shape, "dtype": ref.type.dtype, "value": value}
        (made,) = dispatch.apply(REGISTRY["full"], (), attrs)
    return made


def _accumulate(tensor: Tensor, gradient: Ref, create_graph: bool) -> None:
    with dispatch.grad_mode(create_graph):
        before = tensor._gradient_now()
        if before is not None and not isinstance(before, FreedGradient):
            (gradient,) = dispatch.apply(REGISTRY["add"], (before._ref, gradient), {})
            before._rebind(gradient)
            return
    if gradient.array is not None:
        # A gradient may be a broadcast or a view of a value that others share.
        gradient.array = devices.row_major(gradient.array)
    tensor._set_gradient(wrap(gradient))


class _GradMode(AbstractContextManager[None]):
    """A context manager and decorator that switches the tape on or off."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._open: list[Any] = []

    def __enter__(self) -> None:
        context = dispatch.grad_mode(self._enabled)
        context.__enter__()
        self._open.append(context)

    def __exit__(self, *exc: Any) -> None:
        self._open.pop().__exit__(*exc)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with dispatch.grad_mode(self._enabled):
                return function(*args, **kwargs)

        return inside


def _mode(enabled: bool, name: str) -> Callable[..., Any]:
    def make(function: Callable[..., Any] | None = None) -> Any:
        mode = _GradMode(enabled)
        return mode if function is None else mode(function)

    make.__name__ = name
    make.__doc__ = f"Context manager or decorator: the tape is {'on' if enabled else 'off'} inside."
    return make


no_grad = _mode(False, "no_grad")
enable_grad = _mode(True, "enable_grad")


def inference_mode(mode: bool = True) -> Any:
    """`no_grad`, under the name for code that never needs gradients."""
    if callable(mode):
        return _GradMode(False)(mode)
    return _GradMode(not mode)


class set_grad_enabled(_GradMode):  # noqa: N801  (PyTorch's name)
    """Switch the tape on or off, as a statement or as a context manager."""

    def __init__(self, mode: bool) -> None:
        super().__init__(mode)
        self._before = dispatch.is_grad_enabled()
        dispatch.set_grad_enabled(mode)

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        dispatch.set_grad_enabled(self._before)


is_grad_enabled = dispatch.is_grad_enabled
