"""Automatic mixed precision: which functions run in 16 bits, which in float32, while it is on.

The tables are PyTorch's. They are applied where functions are public (`lowgrad.*`, `nn.functional`,
Tensor's methods), to whole functions: what a function is made of runs in the types that it is
given. So a softmax listed under float32 is float32 throughout, and a linear layer is one product.
Source: PyTorch, "Automatic Mixed Precision package", CUDA and CPU op-specific behaviour.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lowgrad import dispatch
from lowgrad.errors import AutogradError
from lowgrad.functional.common import cast
from lowgrad.ir.types import DType, bfloat16, float16, float32, float64
from lowgrad.tape import Ref
from lowgrad.tensor import Tensor

_PRODUCTS = """linear matmul mm bmm mv addmm baddbmm einsum scaled_dot_product_attention"""
_LOSSES = """binary_cross_entropy_with_logits cross_entropy hinge_embedding_loss huber_loss kl_div
l1_loss mse_loss nll_loss smooth_l1_loss"""

# What runs in the lower precision, in float32, and in the widest type among the operands.
LOWER = {"cuda": f"{_PRODUCTS}", "cpu": _PRODUCTS.replace(" mv ", " ")}
WIDE = {
    "cuda": f"""__pow__ __rpow__ __rtruediv__ cosine_similarity cumprod cumsum exp expm1 layer_norm
    log log10 log1p log2 log_softmax norm normalize pow prod reciprocal rms_norm rsqrt softmax
    softmin softplus sum {_LOSSES}""",
    "cpu": f"prod {_LOSSES}",
}
WIDEST = {
    "cuda": "addcdiv addcmul bilinear dot cat stack tensordot scatter_add",
    "cpu": "cat stack",
}
REFUSED = {"cuda": "binary_cross_entropy", "cpu": ""}
DEFAULT = {"cuda": float16, "cpu": bfloat16}


def _by_name(table: dict[str, str], policy: str) -> dict[tuple[str, str], str]:
    return {(kind, name): policy for kind, names in table.items() for name in names.split()}


POLICIES = {
    **_by_name(LOWER, "lower"),
    **_by_name(WIDE, "wide"),
    **_by_name(WIDEST, "widest"),
    **_by_name(REFUSED, "refused"),
}
# A method of another name has its function's policy.
METHODS = {"__matmul__": "matmul", "__rmatmul__": "matmul"}
NAMES = {name for _, name in POLICIES}


class Setting(NamedTuple):
    """Autocast on one kind of device."""

    enabled: bool
    dtype: DType


class _State(threading.local):
    def __init__(self) -> None:
        self.settings = {kind: Setting(False, dtype) for kind, dtype in DEFAULT.items()}
        self.is_on = False
        self.depth = 0
        self.keeps = True
        # Casts of weights in this region: by ref and dtype, with the ref, which must stay alive.
        self.casts: dict[tuple[int, DType, bool], tuple[Ref, Tensor]] = {}


state = _State()


def modes() -> Any:
    """What of this thread's settings a recorded step depends on."""
    return tuple(state.settings.values()) if state.is_on else ()


def entered(kind: str, setting: Setting, keeps: bool) -> Any:
    """Change the setting for one kind of device; what `left` needs to change it back."""
    before = (state.settings[kind], state.is_on, state.keeps)
    state.settings[kind] = setting
    state.is_on = any(s.enabled for s in state.settings.values())
    state.keeps = keeps
    state.depth += 1
    return before


def left(kind: str, before: Any) -> None:
    """Change the setting back. Casts of weights end with the outermost region."""
    state.settings[kind], state.is_on, state.keeps = before
    state.depth -= 1
    if not state.depth:
        state.casts.clear()


FunctionT = Callable[..., Any]


def autocasting(function: FunctionT, name: str) -> FunctionT:
    """`function` with its policies; nearly free while autocast is off."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not state.is_on:
            return function(*args, **kwargs)
        return _called(function, name, args, kwargs)

    return call


def _called(function: FunctionT, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = _tensors((*args, *kwargs.values()))
    kind = tensors[0].device.type if tensors else ""
    setting = state.settings.get(kind)
    if setting is None or not setting.enabled:
        return function(*args, **kwargs)
    policy = POLICIES.get((kind, name))
    if policy == "refused":
        raise AutogradError(
            f"{name}: unsafe under autocast: a probability in 16 bits can be exactly 0 or 1",
            fix="F.binary_cross_entropy_with_logits(logits, target)",
        )
    dtype = _chosen(policy, setting, tensors, kwargs)
    if dtype is not None:
        args = tuple([_cast(a, dtype) for a in args])
        kwargs = {k: _cast(v, dtype) for k, v in kwargs.items()}
    # Inside it is an ordinary function: its own calls are its business.
    state.is_on = False
    try:
        return function(*args, **kwargs)
    finally:
        state.is_on = True


def _chosen(
    policy: str | None, setting: Setting, tensors: list[Tensor], kwargs: dict[str, Any]
) -> DType | None:
    """What the operands are cast to; None for nothing."""
    if policy == "lower":
        return setting.dtype
    if policy == "wide":
        return None if kwargs.get("dtype") is not None else float32  # the caller chose one
    return _widest(tensors) if policy == "widest" else None


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [t for t in value if isinstance(t, Tensor)]
    return found


def _is_eligible(dtype: DType) -> bool:
    return dtype.is_floating_point and dtype is not float64


def _widest(tensors: list[Tensor]) -> DType | None:
    dtypes = {t.dtype for t in tensors if _is_eligible(t.dtype)}
    return None if len(dtypes) < 2 else float32  # the two of 16 bits meet there, too


def _cast(value: Any, dtype: DType) -> Any:
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_cast(v, dtype) for v in value)
    if not isinstance(value, Tensor) or value.dtype is dtype or not _is_eligible(value.dtype):
        return value
    is_weight = value.dtype is float32 and value.is_leaf and value.requires_grad
    # While recording, equal casts become one by themselves.
    if not (is_weight and state.keeps) or dispatch.is_recording():
        return cast(value, dtype)
    ref = value._ref
    key = (id(ref), dtype, dispatch.is_grad_enabled())
    kept = state.casts.get(key)
    if kept is None:
        kept = state.casts[key] = (ref, cast(value, dtype))
    return kept[1]


def install(namespace: Any, others: Iterable[str] = ()) -> None:
    """Give the functions of a module, or the methods of a class, their policies.

    others: functions without one, which are kept from being taken apart: what they are made of is
    not looked at, as it is not where each is one kernel.
    """
    for name in {*NAMES, *METHODS, *others}:
        function = vars(namespace).get(name)
        if callable(function) and not hasattr(function, "_is_autocasting"):
            wrapped = autocasting(function, METHODS.get(name, name))
            wrapped._is_autocasting = True  # type: ignore[attr-defined]
            setattr(namespace, name, wrapped)


def functions_of(module: Any) -> list[str]:
    """The names of a module's public functions."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType) and not name.startswith("_")
    ]


__all__ = ["DEFAULT", "Setting", "entered", "functions_of", "install", "left", "modes", "state"]
