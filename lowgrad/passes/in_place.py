"""Whether a kernel may write an output over one of its inputs.

It may if every element of the input is read only by the lane that writes that element: a lane that
reads elsewhere (a flip, a product, a neighbour) could find the new value. Where whole rows are
reduced, a row is one program's, which reads all that it needs of it before it writes it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.types import Shape
from lowgrad.ir.walk import body_of, reached_from
from lowgrad.passes.dataflow import Edge, Path, Role, flow_of

# They write their first operand, the base, with changes.
SCATTERS = frozenset(("index_add", "scatter_add", "scatter"))


def may_overwrite(node: Node, state: Value, output: Value) -> bool:
    """Whether the kernel of `node` may store its `output` where `state` is."""
    if state.type != output.type:
        return False
    if state not in node.inputs:
        return True
    if node.op.name in SCATTERS:
        # All kinds read an element of the base before, or when, they write it, and no other.
        return node.inputs.count(state) == 1 and state is node.inputs[0]
    body = body_of(node)
    inner = dict(zip(dict.fromkeys(node.inputs), body.inputs, strict=True))
    results = dict(zip(node.outputs, body.outputs, strict=True))
    return reads_in_place(body, inner[state], results[output])


def reads_in_place(body: Graph, state: Value, output: Value) -> bool:
    """Whether each element of `state` is read only where the same element of `output` is made."""
    flow = _flow(body)
    if output not in flow.producer:
        return True  # handed through
    earlier = _before_columns(body, state, output)
    rows = _rows(body)
    # What is made of the state must stay where it is, too: (2 * x).T is not to be stored over x.
    made = reached_from(body.nodes, [state]) - {state}
    for index, edges in enumerate(flow.edges):
        for edge in () if body.nodes[index] in earlier else edges:
            role = flow.role[index]
            stays = _same_row(role, edge, rows) if rows else _same_lane(role, edge.path)
            if edge.source in made and not stays:
                return False
    if rows is not None and output.type.numel == math.prod(rows.shape):
        return all(
            _same_row(flow.role[index], edge, rows)
            for index, edges in enumerate(flow.edges)
            for edge in edges
            if edge.source is state
        )
    for index, edges in enumerate(flow.edges):
        for edge in () if body.nodes[index] in earlier else edges:
            if edge.source is state and not _same_lane(flow.role[index], edge.path):
                return False
    # Lanes of a multi region belong to one of its bodies; another's reads come at any time.
    return bool(earlier) or _reaches_only(body, state, output)


def _before_columns(body: Graph, state: Value, output: Value) -> set[Node]:
    """The nodes that have run when `output`, made of sums down columns, is stored.

    In a region that reduces rows and sums columns those are all that do not follow from the sums,
    unless the sums themselves are of what is read from `state`.
    """
    if any(n.op.family == "contraction" for n in body.nodes):
        return set()  # its sums are of operands, and no other program waits for them
    reductions = [n for n in body.nodes if _reduces(n)]
    if len({n.attrs["dims"] for n in reductions}) < 2:
        return set()
    columns = [n for n in reductions if n.inputs[0].type.ndim - 1 not in n.attrs["dims"]]
    following = reached_from(body.nodes, [n.output for n in columns])
    of_state = reached_from(body.nodes, [state])
    if output not in following or any(n.inputs[0] in of_state for n in columns):
        return set()
    return {n for n in body.nodes if following.isdisjoint(n.outputs)}


# Asked for each pair of what a body reads and makes, one after the other.
_flow = lru_cache(maxsize=8)(flow_of)


class _Rows(NamedTuple):
    """What a region reduces: a space, over dims."""

    shape: Shape
    dims: tuple[int, ...]


def _rows(body: Graph) -> _Rows | None:
    """The one space of a region's reductions, if it has reductions of one space and no product."""
    if any(n.op.family == "contraction" for n in body.nodes):
        return None
    found = {(n.inputs[0].type.shape, n.attrs["dims"]) for n in body.nodes if _reduces(n)}
    return _Rows(*found.pop()) if len(found) == 1 else None


def _reduces(node: Node) -> bool:
    return node.op.family == "reduction"


def _same_row(role: Role, edge: Edge, rows: _Rows) -> bool:
    """Whether what is read is of the reader's own row: the element at its place, all, or any."""
    if role in (Role.VIEW, Role.CREATE):
        return True
    if edge.path is Path.EXPAND:
        reduced = tuple(1 if d in rows.dims else n for d, n in enumerate(rows.shape))
        return edge.low == reduced and edge.high == rows.shape and reduced != rows.shape
    if edge.path is Path.GATHER:
        return role is Role.POINTWISE and edge.low == rows.dims and edge.high == rows.shape
    return edge.path is Path.FLAT and role in (Role.POINTWISE, Role.REDUCTION, Role.RESHAPE)


def _same_lane(role: Role, path: Path) -> bool:
    # Views without a reader of their own are not read; a reduction reads the whole row.
    unread = role in (Role.VIEW, Role.CREATE)
    return unread or (path is Path.FLAT and role in (Role.POINTWISE, Role.RESHAPE))


def _reaches_only(body: Graph, state: Value, output: Value) -> bool:
    """Whether all other outputs that depend on `state` have `output`'s number of elements."""
    reached = reached_from(body.nodes, [state])
    return all(v.type.numel == output.type.numel for v in body.outputs if v in reached)
