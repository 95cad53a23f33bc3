"""What an op is: one object with its facets side by side, registered under its name.

A facet is a method: `infer` (types), `evaluate` (NumPy), `vjp` (graph ops), `emit` (tiles),
`slicing` and `cut` (running it in pieces). The families in `lowgrad/ops` implement what their
members share; codegen and passes know families only.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from lowgrad.ir.build import Tracer, apply
from lowgrad.ir.slicing import Slicing
from lowgrad.ir.types import TensorType

Array = npt.NDArray[Any]


class Op:
    """An operation of the Graph language.

    evaluate sees *wide* arrays only: float16 and bfloat16 operands arrive as float32, and what it
    returns is rounded to the inferred type by the interpreter. Ops that only move data
    (`moves_data`) get and return their operands' storage type. An op that `runs_itself` knows where
    its result is computed: a copy between devices, a compiled function.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    moves_data: ClassVar[bool] = False
    runs_itself: ClassVar[bool] = False
    # Fixed reasons why a facet is absent, by facet; the registry test accepts nothing else.
    absent: ClassVar[dict[str, str]] = {}

    def infer(self, *types: Any, **attrs: Any) -> TensorType | tuple[TensorType, ...]:
        """The result type(s). Raises ShapeError or DTypeError, stating the plain fact."""
        raise NotImplementedError(self.name)

    def evaluate(self, *arrays: Any, **attrs: Any) -> Any:
        """The result array(s), computed plainly: this is what the op means."""
        raise NotImplementedError(self.name)

    def vjp(self, g: Any, out: Any, *inputs: Any, **attrs: Any) -> tuple[Tracer | None, ...]:
        """For each input, the gradient of sum(g * out) with respect to it, or None if it has none.

        With several outputs, `g` and `out` are tuples, and members of `g` may be None.
        """
        raise NotImplementedError(self.name)

    def emit(self, *tiles: Any, **attrs: Any) -> Any:
        """The op's arithmetic on tiles (pointwise and reduction families)."""
        raise NotImplementedError(self.name)

    def slicing(self, *args: Any, **attrs: Any) -> Slicing | None:
        """How to run this op in pieces along an Axis; None if no piece can do without the others.

        args: the axis.
        """
        return None

    def cut(self, *args: Any, **attrs: Any) -> Any:
        """Append one piece of this op to a graph under construction.

        args: the Cut, and the inputs, of which the sliced ones are pieces.
        """
        to, *inputs = args
        return to.builder.apply(self, *inputs, **attrs)

    def __call__(self, *inputs: Any, **attrs: Any) -> Any:
        """Append this op to the graph under construction that `inputs` belong to."""
        return apply(self, inputs, attrs)

    def __repr__(self) -> str:
        return self.name


REGISTRY: dict[str, Op] = {}

OpT = TypeVar("OpT", bound=Op)


def register(op: OpT) -> OpT:
    """Put `op` into the registry under its name, and return it."""
    assert op.name not in REGISTRY, f"two ops are called {op.name}"
    REGISTRY[op.name] = op
    return op


def outputs_of(
    op: Op, types: tuple[TensorType, ...], attrs: dict[str, Any]
) -> tuple[TensorType, ...]:
    """`op.infer`, always as a tuple."""
    inferred = op.infer(*types, **attrs)
    return inferred if isinstance(inferred, tuple) else (inferred,)


def evaluate(
    op: Op, arrays: tuple[Array, ...], attrs: Any, types: tuple[TensorType, ...]
) -> tuple[Array, ...]:
    """Run one op on arrays in storage types: widen, evaluate, round to `types`."""
    if not op.moves_data:
        arrays = tuple([widen(a) for a in arrays])
    result = op.evaluate(*arrays, **attrs)
    if not isinstance(result, tuple):
        return (rounded(result, types[0]),)
    return tuple([rounded(r, t) for r, t in zip(result, types, strict=True)])


def widen(array: Array) -> Array:
    """`array` in the type its arithmetic is done in: the 16-bit floats become float32."""
    # 'V' is ml_dtypes' bfloat16, 'f' float16; by the itemsize the common case is one compare.
    if array.dtype.itemsize == 2 and array.dtype.kind in "Vf":
        return array.astype(np.float32)
    return array


def rounded(array: Array, type_: TensorType) -> Array:
    """`array` stored in `type_`'s dtype; NumPy's scalars become 0-d arrays."""
    if not isinstance(array, np.ndarray):
        array = np.asarray(array)
    if array.dtype is type_.dtype.numpy or array.dtype == type_.dtype.numpy:
        return array
    with np.errstate(all="ignore"):
        return array.astype(type_.dtype.numpy)
