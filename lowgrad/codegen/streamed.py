"""What a row loop's body is to a kernel that streams it: what lies along its rows and columns.

The largest product is what rows and columns are of. From it the two axes are followed through the
body as far as ops say how they are sliced; what they combine over an axis is a sum over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.slicing import Axis, Place, Slicing
from lowgrad.ir.types import Shape


class DoesNotFit(Exception):
    """Why a loop cannot be streamed: it is then launched chunk by chunk."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a loop's body is to this skeleton.

    along[axis][value]: the dim of `value` that goes along the rows (axis 0) or columns (axis 1),
    or by what its partial results are combined.  slicing: the same, by node, for its operands.
    """

    batch: Shape
    sizes: tuple[int, int]
    along: tuple[Mapping[Value, int | str | None], Mapping[Value, int | str | None]]
    slicing: tuple[Mapping[Node, Slicing], Mapping[Node, Slicing]]

    def sums(self, node: Node, axis: int) -> bool:
        """Whether `node` combines what lies along `axis`."""
        return isinstance(self.along[axis].get(node.outputs[0]), str)

    def lies(self, value: Value, axis: int) -> bool:
        """Whether `value` has a dim along `axis`."""
        return isinstance(self.along[axis].get(value), int)


@lru_cache(maxsize=256)
def shape_of(node: Node) -> Streamed | None:
    body: Graph = node.attrs["body"]
    products = [n for n in body.nodes if n.op.family == "contraction"]
    if not products:
        return None
    seed = max(products, key=lambda n: n.output.type.numel).output
    last = seed.type.ndim - 1
    sizes = seed.type.shape[-2:]
    if min(sizes) < 2:
        return None
    constant = _constants(body)
    found = [_labelled(body, seed, last - 1 + axis, sizes[axis], constant) for axis in (0, 1)]
    if None in found:
        return None
    (rows, by_rows), (columns, by_columns) = (f for f in found if f is not None)
    return Streamed(
        seed.type.shape[:-2], (sizes[0], sizes[1]), (rows, columns), (by_rows, by_columns)
    )


def _constants(body: Graph) -> set[Value]:
    found: set[Value] = set()
    for node in body.nodes:
        if node.op.family == "create" or (node.inputs and found.issuperset(node.inputs)):
            found.update(node.outputs)
    return found


def _labelled(
    body: Graph, seed: Value, dim: int, steps: int, constant: set[Value]
) -> tuple[dict[Value, int | str | None], dict[Node, Slicing]] | None:
    """The dim along which each value is sliced with `seed`, and how each node is."""
    maker = {v: n for n in body.nodes for v in n.outputs}
    users: dict[Value, list[Node]] = {}
    for node in body.nodes:
        for value in dict.fromkeys(node.inputs):
            users.setdefault(value, []).append(node)
    labels: dict[Value, int | str | None] = {seed: dim}
    slicing: dict[Node, Slicing] = {}
    todo = [seed]
    while todo:
        value = todo.pop()
        at = labels[value]
        if not isinstance(at, int):
            continue
        places = [(u, Place(False, u.inputs.index(value), at)) for u in users.get(value, ())]
        if value in maker:
            places.append((maker[value], Place(True, maker[value].outputs.index(value), at)))
        for node, place in places:
            if node in slicing:
                continue
            ins, outs = (tuple(v.type for v in vs) for vs in (node.inputs, node.outputs))
            found = node.op.slicing(Axis(place, steps, ins, outs), **node.attrs)
            if found is None and place.is_result and node.op.family == "view":
                continue  # an index map finds its elements wherever they are
            if found is None or _picks(node, found):
                return None
            slicing[node] = found
            pairs = zip((*node.inputs, *node.outputs), (*found.ins, *found.outs), strict=True)
            for other, label in pairs:
                if other in constant or label is None:
                    continue
                if labels.setdefault(other, label) != label:
                    return None
                # Who else reads an operand from memory reads it as it likes.
                if other not in todo and other in maker:
                    todo.append(other)
    return labels, slicing


def _picks(node: Node, slicing: Slicing) -> bool:
    """Whether a node takes elements out of pieces, which in a kernel are blocks in registers."""
    return node.op.family == "indexing" and any(isinstance(out, str) for out in slicing.outs)


def levels(nodes: Iterable[Node], shape: Streamed, axis: int) -> dict[Value, int]:
    """How many sums over the other axis there are, one after another, before each value."""
    level: dict[Value, int] = {}
    for node in nodes:
        before = max((level.get(v, 0) for v in node.inputs), default=0)
        for value in node.outputs:
            level[value] = before + (shape.sums(node, 1 - axis) or is_inner(node, shape, axis))
    return level


def is_inner(node: Node, shape: Streamed, axis: int) -> bool:
    """Whether `node` reduces the inner size of what lies along `axis` only."""
    if node.op.family != "reduction":
        return False
    (value,) = node.inputs
    lies = [shape.lies(value, a) for a in (axis, 1 - axis)]
    return lies == [True, False] and shape.lies(node.outputs[0], axis)
