"""Where the first NaN of a step comes from: the op, the user's line, the element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lowgrad.compare import wide
from lowgrad.errors import NaNError
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.interpret import run_node
from lowgrad.ir.walk import producers

Array = npt.NDArray[Any]


def refuse_nan(graph: Graph, call: str, inputs: Sequence[Array], results: Sequence[Array]) -> None:
    """Raise NaNError if `results` hold a NaN, naming what made the first one from `inputs`.

    graph: as recorded, so that each op has its line. call: what to call this in the message.
    """
    bad = [v for v, a in zip(graph.outputs, results, strict=True) if has_nan(a)]
    if not bad:
        return
    for value, array in zip(graph.inputs, inputs, strict=True):
        if has_nan(array):
            raise NaNError(
                f"{call}: {value.hint or 'an input'} holds NaN at {_first(np.isnan(wide(array)))} "
                "before the step",
                operands=[f"{value.hint or 'input'}  {value.type}"],
            )
    culprit = first_nan(graph, inputs)
    if culprit is None:
        raise NaNError(
            f"{call}: a result holds NaN, where the reference has none: a kernel is at fault",
            operands=[f"{bad[0].hint or 'result'}  {bad[0].type}"],
            fix="lowgrad.compile(check=True) names it",
        )
    raise NaNError(
        f"{call}: {culprit.node.op.name} made the first NaN, at {culprit.place} of "
        f"{culprit.value.type}",
        operands=list(culprit.operands()),
        at=str(culprit.node.loc or ""),
    )


class Culprit(NamedTuple):
    """The first node of a graph that makes a NaN from operands that have none."""

    graph: Graph
    node: Node
    value: Value
    place: list[int]
    given: tuple[Array, ...]

    def operands(self) -> Iterator[str]:
        """Each operand: its value there, or where it is infinite, and who made that."""
        made_by = producers(self.graph)
        for value, array in zip(self.node.inputs, self.given, strict=True):
            name, floats = value.hint or "operand", wide(array)
            node = made_by.get(value)
            source = f", from {node.op.name} at {node.loc}" if node is not None else ""
            if array.shape == self.value.type.shape:
                yield f"{name}  {value.type}: {floats[tuple(self.place)]:g} there{source}"
            elif np.isinf(floats).any():
                infinite = np.isinf(floats)
                yield (
                    f"{name}  {value.type}: {int(infinite.sum())} infinite, "
                    f"the first at {_first(infinite)}{source}"
                )
            else:
                yield f"{name}  {value.type}: from {floats.min():g} to {floats.max():g}{source}"


def first_nan(graph: Graph, arrays: Sequence[Array]) -> Culprit | None:
    """Where the reference first makes a NaN of operands without one; None if nowhere."""
    values: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        operands = tuple(values[v] for v in node.inputs)
        made = run_node(node, operands)
        for value, array in zip(node.outputs, made, strict=True):
            if has_nan(array) and not any(map(has_nan, operands)):
                return Culprit(graph, node, value, _first(np.isnan(wide(array))), operands)
        values.update(zip(node.outputs, made, strict=True))
    return None


def has_nan(array: Array) -> bool:
    """Whether an array of any type has a NaN."""
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return is_float and bool(np.isnan(wide(array)).any())


def _first(found: Array) -> list[int]:
    """The first place, in row-major order, where `found` holds."""
    return [int(i) for i in np.argwhere(found)[0]]
