"""Which reductions of a row can be taken before the one that they are relative to is known.

sum(exp(x - m)) waits for m, the maximum of x, and sum((x - m)^2) for the mean: two loops over the
row. But both are found from a running maximum or mean in each lane, and are put right at the end:

    sum(exp(x - m)) = sum over lanes of s exp(M - m),  s the sum of exp(x - M), M the lane's maximum
    sum((x - m)^2)  = sum over lanes of q + n (A - m)^2,  q the sum of (x - A)^2, A the lane's mean

Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", alg. 3; Chan et al.
1983, "Algorithms for computing the sample variance", eq. 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lowgrad.codegen.partials import accumulated_in
from lowgrad.codegen.reader import At
from lowgrad.codegen.region import Region
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import as_index, flatten, symbol
from lowgrad.ir.places import element
from lowgrad.ir.walk import reached_from

# What a shift must follow from, so that the running one is near it.
ANCHORS = {"exp": "max", "square": "sum"}


@dataclass(frozen=True)
class Online:
    """The sum of f(x - shift), f being exp or the square; `shift` is one number a row.

    anchor: the reduction of x that the shift follows from.
    """

    f: Literal["exp", "square"]
    x: Value
    shift: Value
    anchor: Node


@dataclass(frozen=True)
class Passes:
    """When each reduction is made, in loops over the row; `online` are made a loop early."""

    of: Mapping[Node, int]
    online: Mapping[Node, Online]

    @property
    def count(self) -> int:
        """How many loops there are."""
        return max(self.of.values()) + 1


def passes(region: Region, reductions: tuple[Node, ...], *, online: bool) -> Passes:
    """The loops over the row that `reductions` take, one after the other."""
    producers = region.producers
    depth: dict[Value, int] = {}
    levels: dict[Node, int] = {}
    early: dict[Node, Online] = {}
    for node in region.nodes:
        own = max((depth.get(v, 0) for v in node.inputs), default=0)
        if node in reductions:
            form = online_form(region, producers, node, levels) if online and own else None
            if form is not None and depth.get(form.x, 0) == levels[form.anchor] == own - 1:
                early[node] = form
                own -= 1
            levels[node] = own
            own += 1
        depth.update(dict.fromkeys(node.outputs, own))
    return Passes(levels, early)


def online_form(
    region: Region, producers: Mapping[Value, Node], node: Node, before: Iterable[Node]
) -> Online | None:
    """What `node` is the sum of, relative to one of the reductions `before` it; None if not."""
    dtype = node.inputs[0].type.dtype
    if node.op.name != "sum" or not dtype.is_floating_point:
        return None
    outer = producers.get(unrounded(producers, node.inputs[0]))
    if outer is None:
        return None
    f: Literal["exp", "square"]
    if outer.op.name == "exp":
        f = "exp"
    elif outer.op.name == "mul" and outer.inputs[0] == outer.inputs[1]:
        f = "square"
    else:
        return None
    inner = producers.get(unrounded(producers, outer.inputs[0]))
    if inner is None or inner.op.name != "sub":
        return None
    x, shift = unrounded(producers, inner.inputs[0]), inner.inputs[1]
    same_type = accumulated_in(x.type.dtype) is accumulated_in(dtype)
    if not same_type or x.type.shape != node.inputs[0].type.shape:
        return None
    if not is_of_rows(producers, shift, node):
        return None
    for anchor in before:
        is_of_x = unrounded(producers, anchor.inputs[0]) == x
        if is_of_x and anchor.op.name == ANCHORS[f]:
            followers = reached_from(region.nodes, anchor.outputs)
            if shift in followers and x not in followers:
                return Online(f, x, shift, anchor)
    return None


def unrounded(producers: Mapping[Value, Node], value: Value) -> Value:
    """What `value` is without casts between types that are computed in as one."""
    while (node := producers.get(value)) is not None and node.op.name == "cast":
        (source,) = node.inputs
        wide = accumulated_in(source.type.dtype)
        if value.type.dtype is not wide:
            break
        value = source
    return value


def is_of_rows(producers: Mapping[Value, Node], value: Value, reduction: Node) -> bool:
    """Whether `value`, of the shape of the reduction's operand, is one number for each row."""
    n_cols = reduction.inputs[0].type.numel // max(reduction.output.type.numel, 1)
    row, col = symbol("row", reduction.output.type.numel), symbol("col", n_cols)
    todo: list[tuple[Value, At]] = [(value, element(reduction, row, col))]
    seen: set[tuple[Value, At]] = set()
    while todo:
        found = todo.pop()
        if found in seen:
            continue
        seen.add(found)
        value, at = found
        node = producers.get(value)
        if node is None or node.op.family == "reduction":
            if "col" in flatten(at, value.type.shape).symbols:
                return False
        elif node.op.family == "view" and hasattr(node.op, "index"):
            (source,) = node.inputs
            moved = node.op.index(at, source.type, value.type, **node.attrs)
            todo.append((source, tuple(as_index(i) for i in moved)))
        elif node.op.family == "pointwise":
            todo.extend((v, at) for v in node.inputs)
        elif node.op.name != "full":
            return False
    return True
