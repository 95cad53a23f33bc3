"""Row loops: a subgraph run in pieces, so that what is large in it is never there as a whole."""

from __future__ import annotations

from typing import Any, ClassVar

from lowgrad.errors import ShapeError
from lowgrad.ir.graph import Graph, Value
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import Array, Op, register, rounded
from lowgrad.ir.types import DType, TensorType, float32
from lowgrad.ops.create import Number
from lowgrad.ops.reduction import Reduction, all_, any_, max_, min_, prod, sum_

Dim = int | str | None

# The op that combines two partial results, by the tile function that does, and what it starts from.
COMBINED_BY = {
    "add": "add",
    "mul": "mul",
    "maximum": "maximum",
    "minimum": "minimum",
    "or": "logical_or",
    "and": "logical_and",
}


class Rows(Op):
    """rows(*inputs; body, dims, steps, chunk): the outputs of the graph `body`, in pieces.

    The body is at full size: that is what the node means. A loop of `steps` steps, `chunk` at a
    time, goes along a dim of each value: dims has one for each input of the body and then for each
    result of its nodes, None for what is whole in every piece. A tile function's name (`add`) is
    for outputs of which a piece makes a partial result; 16-bit floats are summed in float32, and
    come out so.

    wide: the positions of put-together outputs that come out as float32, too: 16-bit floats that
    the next loop goes on with, unrounded if this one has them so. Any input may be of float32 where
    the body has 16 bits.

    narrow: the positions of sums that are kept in their 16 bits, rounded after each piece: half of
    the bytes, where a budget has none for float32.

    pieces: what runs, once known: a chunk's graph for each size of piece (`passes/chunks.py`).
    """

    name = "rows"
    family = "loop"
    moves_data = True
    absent: ClassVar[dict[str, str]] = {
        "vjp": "autodiff runs before loops are made",
        "emit": "the nodes of the body have it",
    }

    def infer(
        self,
        *types: TensorType,
        body: Graph,
        dims: tuple[Dim, ...],
        steps: int,
        chunk: int,
        wide: tuple[int, ...] = (),
        narrow: tuple[int, ...] = (),
        pieces: tuple[Graph, ...] = (),
    ) -> tuple[TensorType, ...]:
        pairs = zip(types, body.inputs, strict=False)
        fit = all(t in (v.type, accumulator_type(v.type)) for t, v in pairs)
        if len(types) != len(body.inputs) or not fit:
            raise ShapeError(f"rows: the body takes {body.inputs}, not {types}")
        if not 1 <= chunk <= steps:
            raise ShapeError(f"rows: chunks of {chunk} of {steps} steps")
        along = dims_of(body, dims)
        for value, dim in along.items():
            if isinstance(dim, int) and value.type.shape[dim] % steps:
                raise ShapeError(f"rows: {steps} steps do not divide dim {dim} of {value.type}")
        if any(along[v] is None for v in body.outputs):
            raise ShapeError("rows: an output is whole in every piece; it belongs before the loop")
        return tuple(
            accumulator_type(v.type)
            if i in wide or (isinstance(along[v], str) and i not in narrow)
            else v.type
            for i, v in enumerate(body.outputs)
        )

    def evaluate(self, *arrays: Array, body: Graph, **attrs: Any) -> tuple[Array, ...]:
        inputs = (rounded(a, v.type) for a, v in zip(arrays, body.inputs, strict=True))
        return interpret(body, *inputs)


def dims_of(body: Graph, dims: tuple[Dim, ...]) -> dict[Value, Dim]:
    """The dim of each value of `body`, from the attribute `dims`."""
    values = [*body.inputs, *(v for node in body.nodes for v in node.outputs)]
    return dict(zip(values, dims, strict=True))


def accumulator_type(type_: TensorType) -> TensorType:
    """The type that partial results of `type_` are combined in."""
    return type_.with_dtype(float32) if type_.dtype.is_low_precision else type_


def identity(combine: str, dtype: DType) -> Number:
    """What a combination by the tile function `combine` starts from."""
    return _STARTS[combine].identity(dtype)


_STARTS: dict[str, Reduction] = {op.combine: op for op in (sum_, prod, max_, min_, any_, all_)}

rows = register(Rows())
