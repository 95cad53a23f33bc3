"""Tensor: a handle on an immutable value, with PyTorch's face.

In-place operations rebind the handle. A view remembers its base and how it was made: writing
through it rebinds the base (the write is undone view by view, each by its op's `put`), and reading
it after its base has changed makes it anew. So sharing works as in PyTorch, and no array is ever
written while somebody else can see it.

The methods (`x.sum()`, `x.reshape()`, ...) are the functions of `lowgrad.functional`, attached
there by `method`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import lowgrad.ops  # noqa: F401  (fills the registry)
from lowgrad import devices, dispatch
from lowgrad.devices import AnyArray
from lowgrad.errors import (
    AliasError,
    AutogradError,
    CompileError,
    DeviceError,
    DTypeError,
    ShapeError,
)
from lowgrad.ir.build import Builder
from lowgrad.ir.op import REGISTRY, Array, Op
from lowgrad.ir.types import DType, TensorType, dtype_of
from lowgrad.printing import tensor_text
from lowgrad.promotion import can_cast, get_default_dtype
from lowgrad.tape import Ref

ViewStep = tuple[Op, dict[str, Any]]


class Size(tuple[int, ...]):
    """A shape. It prints as PyTorch's does and has `numel`."""

    __slots__ = ()

    def numel(self) -> int:
        """How many elements."""
        result = 1
        for size in self:
            result *= size
        return result

    def __repr__(self) -> str:
        return f"lowgrad.Size({list(self)})"


class device:  # noqa: N801  (PyTorch's name)
    """Where a tensor lives: `device("cpu")`, `device("cuda")`, `device("cuda", 1)`, `device(1)`.

    Naming one does not need it to be there. As a context manager it is where new tensors are made.
    """

    __slots__ = ("_entered", "index", "type")

    type: str
    index: int | None

    def __init__(self, name: Any = "cpu", index: int | None = None) -> None:
        self.type, found = devices.parsed(name)
        self.index = found if index is None else index
        self._entered: list[Any] = []

    def __enter__(self) -> device:
        context = dispatch.placed(devices.gpu_of(self))
        context.__enter__()
        self._entered.append(context)
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            other = device(other)
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __reduce__(self) -> Any:
        return (device, (self.type, self.index))


CPU = device("cpu")


class Tensor:
    """An n-dimensional array that remembers how it was computed.

    Make one with `lowgrad.tensor`, `zeros`, `randn`, `from_numpy`, ...; `Tensor(data)` is
    `lowgrad.tensor(data)` in the default float dtype.
    """

    _ref_now: Ref
    _leaf_requires_grad: bool
    _grad: Tensor | None
    _base: Tensor | None
    _path: tuple[ViewStep, ...]
    _version: int
    _seen: int

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_base",
        "_grad",
        "_leaf_requires_grad",
        "_path",
        "_ref_now",
        "_seen",
        "_version",
    )

    if TYPE_CHECKING:  # the functions attached by `method`
        data: Any
        T: Tensor
        mT: Tensor  # noqa: N815  (PyTorch's name)

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __rfloordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __rmod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Tensor:
        self = object.__new__(cls)
        self._leaf_requires_grad = False
        self._grad = None
        self._base = None
        self._path = ()
        self._version = 0
        self._seen = 0
        return self

    def __init__(self, data: Any = (), requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            self._ref_now = data._ref
        else:
            array = np.array(data, dtype=get_default_dtype().numpy)
            self._ref_now = Ref(TensorType(array.shape, get_default_dtype()), array)
        if requires_grad:
            self.requires_grad = True

    # The value behind the handle --------------------------------------------------------------

    @property
    def _ref(self) -> Ref:
        """The value now; a view whose base has changed is made anew."""
        base = self._base
        if base is not None and base._version != self._seen:
            ref = base._ref
            for op, attrs in self._path:
                (ref,) = dispatch.apply(op, (ref,), attrs)
            self._note()
            self._ref_now, self._seen = ref, base._version
        return self._ref_now

    def _note(self) -> None:
        """Let a recording know that this handle is about to be rebound."""
        active = dispatch.recorder()
        if active is not None:
            active.touched.setdefault(id(self), (self, self._ref_now, self._grad))

    def _rebind(self, ref: Ref) -> None:
        """Make this handle, and through it its base and its base's other views, mean `ref`."""
        base = self._base
        if base is None:
            if self._leaf_requires_grad and not ref.tracked:
                ref = dispatch.as_leaf(ref, self, True)
            self._note()
            self._ref_now = ref
            self._version += 1
            return
        stages = [base._ref]
        for op, attrs in self._path:
            stages += dispatch.apply(op, (stages[-1],), attrs)
        new = ref
        for (op, attrs), before in zip(reversed(self._path), reversed(stages[:-1]), strict=True):
            new = _put(op, attrs, before, new)
        base._rebind(new)
        self._note()
        self._ref_now, self._seen = ref, base._version

    def _rebind_untracked(self, ref: Ref) -> None:
        """Take over `ref`'s value as a replay left it: a leaf stays a leaf."""
        self._ref_now = dispatch.as_leaf(ref, self, self._leaf_requires_grad)
        self._version += 1

    def _check_writable(self, what: str) -> None:
        if dispatch.is_grad_enabled():
            root = self if self._base is None else self._base
            if root._leaf_requires_grad and root._ref.step is None and self.requires_grad:
                raise AutogradError(
                    f"{what}: a leaf tensor that requires a gradient cannot be written in place",
                    fix="write under `with lowgrad.no_grad():`, or to x.data",
                )
        for op, attrs in self._path:
            if op.name == "expand":
                raise AliasError(
                    f"{what}: cannot write in place: this tensor repeats memory "
                    f"(expanded to {tuple(attrs['shape'])})",
                    fix="call .clone() first",
                )

    # Facts ------------------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        """The sizes of the axes."""
        return Size(self._ref.type.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of axis `dim`."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self._ref.type.dtype

    @property
    def device(self) -> device:
        """Where the tensor lives; while a step is recorded, where it will run."""
        place = dispatch.place_of(self._ref)
        return CPU if place is None else device("cuda", place.index)

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self._ref.type.shape)

    def dim(self) -> int:
        """How many axes."""
        return self.ndim

    def numel(self) -> int:
        """How many elements."""
        return self._ref.type.numel

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._ref.type.nbytes

    itemsize = property(element_size)

    def is_floating_point(self) -> bool:
        """Whether the elements are floats."""
        return self.dtype.is_floating_point

    @property
    def is_cuda(self) -> bool:
        """Whether the tensor lives on a GPU."""
        return dispatch.place_of(self._ref) is not None

    def get_device(self) -> int:
        """The number of the tensor's GPU, -1 on the CPU."""
        place = dispatch.place_of(self._ref)
        return -1 if place is None else place.index

    def is_contiguous(self) -> bool:
        """True: a handle's value has no strides that a program could see."""
        return True

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    # Gradients --------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are kept for this tensor (a leaf) or flow through it."""
        return self._leaf_requires_grad or self._ref.tracked

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        ref = self._ref
        if wanted and not ref.type.dtype.is_floating_point:
            raise DTypeError(
                f"requires_grad: only floating-point tensors have gradients, not {self.dtype!r}",
                fix="x.float()",
            )
        if not wanted and not self.is_leaf:
            raise AutogradError(
                "requires_grad: only leaf tensors can be switched off", fix="x.detach()"
            )
        if wanted != self._leaf_requires_grad and self.is_leaf:
            self._leaf_requires_grad = wanted
            # A fresh ref, since other handles may share this one and keep their own flag.
            self._ref_now = dispatch.as_leaf(ref, self, wanted)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Switch gradients on or off for this leaf; return it."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user and not by a tracked operation."""
        ref = self._ref
        return self._leaf_requires_grad or not ref.tracked

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient, or None.

        Raises AutogradError after a compiled step that used the gradient up in its own update:
        such a step does not keep it (`lowgrad.compile(keep_grads=True)` does).
        """
        gradient = self._gradient_now()
        if isinstance(gradient, FreedGradient):
            raise AutogradError(
                "grad: the compiled step used this gradient up in the parameter's own update",
                fix="lowgrad.compile(step, keep_grads=True), or return the gradient from the step",
            )
        return gradient

    @grad.setter
    def grad(self, grad: Tensor | None) -> None:
        if grad is not None and grad.shape != self.shape:
            raise ShapeError(
                f"grad: shapes differ: gradient {tuple(grad.shape)}, tensor {tuple(self.shape)}"
            )
        self._set_gradient(grad)

    def _gradient_now(self) -> Tensor | None:
        """The gradient; a recording is told if it is one from before the step."""
        active = dispatch.recorder()
        if active is not None and id(self) not in active.gradient_writes:
            active.gradient_reads.setdefault(id(self), self._grad is not None)
        return self._grad

    def _set_gradient(self, grad: Tensor | None) -> None:
        self._note()
        active = dispatch.recorder()
        if active is not None:
            active.gradient_writes.add(id(self))
        self._grad = grad

    @property
    def grad_fn(self) -> object | None:
        """The tape entry that made this tensor, None for leaves."""
        return self._ref.step

    # Leaving lowgrad --------------------------------------------------------------------------

    def _array(self, what: str) -> Array:
        """The array; raises CompileError while recording, when there is none."""
        array = self._ref.array
        if array is None or dispatch.is_recording():
            raise CompileError(
                f"{what}: a tensor's value is asked for while the step is recorded; "
                "it is not known yet",
                operands=[f"tensor  {self._ref.type}"],
                fix="return the tensor from the step and look at it outside",
            )
        return devices.on_host(array)

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self.numel() != 1:
            raise ShapeError(
                f"item: needs a tensor of one element, this one has {self.numel()}",
                operands=[f"tensor  {self._ref.type}"],
                fix="reduce it first, x.sum().item(), or use x.tolist()",
            )
        return self._array("item").reshape(()).item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self._array("tolist").tolist()

    def numpy(self) -> Array:
        """A copy as a NumPy array (bfloat16 as ml_dtypes.bfloat16)."""
        if self.requires_grad:
            raise AutogradError(
                "numpy: this tensor requires a gradient, which NumPy would lose",
                fix="x.detach().numpy()",
            )
        self._check_on_host("numpy")
        return self._array("numpy").copy()

    def _check_on_host(self, what: str) -> None:
        """Raise for a tensor on a GPU, as PyTorch does: a hidden copy is a hidden wait."""
        if not dispatch.is_recording() and self.is_cuda:
            raise DeviceError(
                f"{what}: the tensor is on {self.device}, and NumPy's arrays are on the CPU",
                operands=[f"tensor  {self._ref.type}"],
                fix="x.cpu().numpy()",
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self._check_on_host("numpy")
        array = self._array("numpy")
        return array.astype(dtype) if dtype is not None else array.copy()

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise ShapeError(
                f"bool: the truth value of {self.numel()} elements is ambiguous",
                fix="x.any() or x.all()",
            )
        if self._ref.array is None or dispatch.is_recording():
            raise CompileError(
                "a tensor's value decides a Python `if` or `while`, "
                "so the step cannot be recorded once",
                operands=[f"tensor  {self._ref.type}"],
                fix="lowgrad.where(condition, a, b) computes both and chooses",
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        if self.dtype.is_floating_point:
            raise TypeError(f"only integer tensors can be an index, this is {self.dtype!r}")
        return int(self.item())

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("iteration over a 0-d tensor")
        return iter([self[i] for i in range(self.shape[0])])

    def __hash__(self) -> int:
        return id(self)

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    def __str__(self) -> str:
        if dispatch.is_recording():
            raise CompileError(
                "a tensor is printed while the step is recorded; it has no value yet, "
                "and a replay would not print",
                operands=[f"tensor  {self._ref.type}"],
                fix="return the tensor from the step and print it outside",
            )
        return repr(self)

    def __repr__(self) -> str:
        ref = self._ref
        array = None if dispatch.is_recording() else ref.array
        host = None if array is None else devices.on_host(array)
        where = str(self.device) if array is not None and self.is_cuda else ""
        return tensor_text(host, ref.type, self._leaf_requires_grad, ref.step, where)

    def __format__(self, spec: str) -> str:
        if self.ndim == 0 and spec:
            return format(self.item(), spec)
        return str(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # From another device too: a pickle is read where there may be no GPU.
        state = (self._array("pickle"), self.dtype, self._leaf_requires_grad, self.__dict__)
        return (_rebuild, (type(self), *state))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise AutogradError("deepcopy: only leaf tensors can be copied", fix="x.detach()")
        self._array("deepcopy")  # raises while recording
        array = devices.copied(self._ref.array)
        copied = _rebuild(type(self), array, self.dtype, self._leaf_requires_grad, {})
        memo[id(self)] = copied
        copied.__dict__.update(self.__dict__)
        if isinstance(self._grad, Tensor):
            copied._grad = self._grad.__deepcopy__(memo)
        return copied


class FreedGradient(Tensor):
    """Stands in `.grad` for a gradient that a compiled step used up in its own update."""


def _rebuild(
    cls: type[Tensor], array: AnyArray, dtype: DType, requires: bool, extra: Any
) -> Tensor:
    tensor = cls.__new__(cls)
    tensor._ref_now = dispatch.as_leaf(Ref(TensorType(array.shape, dtype), array), tensor, requires)
    tensor._leaf_requires_grad = requires
    tensor.__dict__.update(extra)
    return tensor


def wrap(ref: Ref) -> Tensor:
    """A new handle on `ref`."""
    tensor = Tensor.__new__(Tensor)
    tensor._ref_now = ref
    return tensor


dispatch.set_handle(wrap)


def from_array(array: Array, place: Any = None) -> Tensor:
    """A tensor on `array` itself, which nobody else may write to. Its dtype must be lowgrad's.

    place: the GPU to copy it to, instead.
    """
    dtype = dtype_of(array)
    assert dtype is not None, f"no lowgrad dtype stores {array.dtype}"
    type_ = TensorType(array.shape, dtype)
    return wrap(Ref(type_, devices.moved(array, type_, place)))


def run(name: str, *tensors: Tensor, **attrs: Any) -> Any:
    """Apply the op called `name` to tensors; return its output, or a tuple of them."""
    made = dispatch.apply(REGISTRY[name], tuple([t._ref for t in tensors]), attrs)
    if len(made) == 1:
        return wrap(made[0])
    return tuple(wrap(r) for r in made)


def view(tensor: Tensor, name: str, **attrs: Any) -> Tensor:
    """Apply the view op called `name`; the result shares its elements with `tensor`."""
    op = REGISTRY[name]
    (ref,) = dispatch.apply(op, (tensor._ref,), attrs)
    made = wrap(ref)
    made._base = tensor if tensor._base is None else tensor._base
    made._path = (*tensor._path, (op, attrs))
    made._seen = made._base._version
    return made


def _put(op: Op, attrs: dict[str, Any], before: Ref, new: Ref) -> Ref:
    """The value `before` after its view by `op` was overwritten with `new`."""
    builder = Builder()
    base, update = builder.input(before.type), builder.input(new.type)
    result = op.put(base, update, **attrs)  # type: ignore[attr-defined]
    (ref,) = dispatch.replay(builder.graph((result.value,)), (before, new))
    return ref


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def method(*names: str) -> Callable[[FunctionT], FunctionT]:
    """Attach a function to Tensor as a method, under its own name or `names`."""

    def attach(function: FunctionT) -> FunctionT:
        for name in names or (function.__name__,):
            setattr(Tensor, name, function)
        return function

    return attach


def inplace(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The in-place form of `function`: the result takes its first operand's place."""

    def write(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._check_writable(name)
        result = function(self, *args, **kwargs)
        if result.shape != self.shape:
            raise ShapeError(
                f"{name}: the result {tuple(result.shape)} does not fit the tensor "
                f"{tuple(self.shape)} that it should be written to"
            )
        if result.dtype is not self.dtype:
            if not can_cast(result.dtype, self.dtype):
                raise DTypeError(
                    f"{name}: the result is {result.dtype!r}, which {self.dtype!r} cannot hold",
                    fix=f"x = x.{name.strip('_')}(...) makes a new tensor",
                )
            result = run("cast", result, dtype=self.dtype)
        self._rebind(result._ref)
        return self

    write.__name__ = name
    write.__doc__ = f"In-place `{function.__name__}`: this tensor becomes the result."
    return write


__all__ = ["CPU", "Size", "Tensor", "device", "from_array", "run", "view", "wrap"]
