"""Between devices and dtypes: `to`, `cpu`, `cuda`, `pin_memory`."""

from __future__ import annotations

from typing import Any

from lowgrad import devices, dispatch
from lowgrad.functional.common import cast
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Op
from lowgrad.ir.types import DType, TensorType, dtype_of
from lowgrad.runtime.cuda.array import DeviceArray
from lowgrad.tape import Ref
from lowgrad.tensor import Tensor, device, method, wrap


@method("to")
def _to(self: Tensor, *args: Any, dtype: DType | None = None, **options: Any) -> Tensor:
    """This tensor in another dtype, on another device, or both, as those of another tensor.

    Returns self if nothing changes.
    """
    where: Any = options.get("device")
    for arg in args:
        if isinstance(arg, DType):
            dtype = arg
        elif isinstance(arg, Tensor):
            dtype, where = arg.dtype, arg.device
        elif isinstance(arg, (str, device)) or (isinstance(arg, int) and not isinstance(arg, bool)):
            where = arg
    # A wider type is made after the copy, a narrower one before it: fewer bytes go over.
    is_wider = dtype is not None and dtype.itemsize > self.dtype.itemsize
    made = self if dtype is None or is_wider else cast(self, dtype)
    if where is not None:
        made = _moved(made, where, wait=not options.get("non_blocking", False))
    made = cast(made, dtype) if dtype is not None else made
    return made.clone() if options.get("copy") and made is self else made


def _moved(x: Tensor, where: Any, *, wait: bool = True) -> Tensor:
    """`x` on another device; gradients come back to its own."""
    active = dispatch.recorder()
    if active is not None:
        active.check_device(where)
        return x
    to = devices.gpu_of(where)
    if dispatch.place_of(x._ref) is to:
        return x
    if x.requires_grad and dispatch.is_grad_enabled():
        op = ToDevice(to, dispatch.place_of(x._ref))
        (ref,) = dispatch.apply(op, (x._ref,), {})
        return wrap(ref)
    array = x._ref.array
    assert array is not None, "values outside of recordings have arrays"
    return wrap(Ref(x._ref.type, devices.moved(array, x._ref.type, to, wait=wait)))


class ToDevice(Op):
    """A copy on another device, as an op of the tape: its gradient is copied back."""

    name = "to_device"
    family = "view"
    moves_data = True
    runs_itself = True

    def __init__(self, to: Any, back: Any) -> None:
        self.to, self.back = to, back

    def infer(self, x: TensorType) -> TensorType:
        return x

    def evaluate(self, x: Any) -> Any:
        kind = x.type if isinstance(x, DeviceArray) else TensorType(x.shape, dtype_of(x))  # type: ignore[arg-type]
        return devices.moved(x, kind, self.to)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer | None, ...]:
        made: Tracer = g.builder.apply(ToDevice(self.back, self.to), g)
        return (made,)


@method("cpu")
def _cpu(self: Tensor) -> Tensor:
    """This tensor on the CPU."""
    return _moved(self, "cpu")


@method("cuda")
def _cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """This tensor on a GPU. Raises DeviceError, with the reason, where there is none."""
    return _moved(self, "cuda" if device is None else device, wait=not non_blocking)


@method("pin_memory")
def _pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """A copy in page-locked memory, from which `.to("cuda", non_blocking=True)` returns at once."""
    return wrap(Ref(self._ref.type, devices.pinned_copy(self._array("pin_memory"))))


@method("is_pinned")
def _is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether the elements lie in page-locked memory."""
    return not self.is_cuda and devices.is_pinned(self._array("is_pinned"))
