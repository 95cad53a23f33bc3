"""Which reductions of a row can be taken before the one that they are relative to is known.

sum(exp(x - m)) waits for m, the maximum of x, and sum((x - m)^2) for the mean: two loops over the
row. But both are found from a running maximum or mean in each lane, and are put right at the end:

    sum(w exp(x - m)) = sum over lanes of s exp(M - m),  s the sum of w exp(x - M), M their maximum
    sum((x - m)^2) = sum over lanes of q + n (A - m)^2,  q the sum of (x - A)^2, A their mean
    sum(w (x - m)) = sum over lanes of t + u (K - m),    t the sum of w (x - K), u of w

where K is the first x of the lane, which is near m where x is far from 0.

Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", alg. 3; Chan et al.
1983, "Algorithms for computing the sample variance", eq. 2.1, and sec. 3 for K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    """The sum of weight f(x - shift), f being exp, the square, or nothing.

    shift is one number a row; a weight of None is 1.
    anchor: the reduction of x that the shift follows from; f of nothing needs none.
    """

    f: Literal["exp", "square", ""]
    x: Value
    shift: Value
    weight: Value | None = None
    anchor: Node | None = None


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
            form = online_form(region, producers, node, levels, depth) if online and own else None
            if form is not None:
                early[node] = form
                own = _needed_by(form, depth)
            levels[node] = own
            own += 1
        depth.update(dict.fromkeys(node.outputs, own))
    return Passes(levels, early)


def _needed_by(form: Online, depth: Mapping[Value, int]) -> int:
    used = (form.x,) if form.weight is None else (form.x, form.weight)
    return max(depth.get(v, 0) for v in used)


def online_form(
    region: Region,
    producers: Mapping[Value, Node],
    node: Node,
    levels: Mapping[Node, int],
    depth: Mapping[Value, int],
) -> Online | None:
    """What `node` is the sum of, if it can be made before what it waits for; None if not.

    levels, depth: of the reductions before it, and of the values.
    """
    dtype = node.inputs[0].type.dtype
    if node.op.name != "sum" or not dtype.is_floating_point:
        return None
    own = depth.get(node.inputs[0], 0)
    form = form_of(producers, unrounded(producers, node.inputs[0]), own, depth)
    if form is None or (first := _needed_by(form, depth)) >= own:
        return None
    used = (form.x,) if form.weight is None else (form.x, form.weight)
    if any(accumulated_in(v.type.dtype) is not accumulated_in(dtype) for v in used):
        return None
    if any(v.type.shape != node.inputs[0].type.shape for v in used):
        return None
    if not is_of_rows(producers, form.shift, node):
        return None
    if not form.f:
        return form if form.weight is not None else None
    for anchor, level in levels.items():
        is_of_x = unrounded(producers, anchor.inputs[0]) == form.x
        if is_of_x and anchor.op.name == ANCHORS[form.f] and level == first:
            followers = reached_from(region.nodes, anchor.outputs)
            if form.shift in followers:
                return replace(form, anchor=anchor)
    return None


def form_of(
    producers: Mapping[Value, Node], value: Value, own: int, depth: Mapping[Value, int]
) -> Online | None:
    """The form of `value`, which is known after `own` loops, by the ops that make it."""
    maker = producers.get(value)
    if maker is None:
        return None
    weight = None
    if maker.op.name == "mul" and maker.inputs[0] != maker.inputs[1]:
        early = [v for v in maker.inputs if depth.get(v, 0) < own]
        if len(early) != 1:
            return None
        (weight,) = early
        (value,) = (unrounded(producers, v) for v in maker.inputs if v != weight)
        maker = producers.get(value)
        if maker is None:
            return None
    f: Literal["exp", "square", ""] = ""
    if maker.op.name == "exp":
        f = "exp"
    elif maker.op.name == "mul" and maker.inputs[0] == maker.inputs[1] and weight is None:
        f = "square"
    if f:
        maker = producers.get(unrounded(producers, maker.inputs[0]))
    if maker is None or maker.op.name != "sub":
        return None
    x, shift = maker.inputs
    return Online(f, unrounded(producers, x), shift, weight)


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
