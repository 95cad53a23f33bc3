"""Sums along the columns that are taken before the maximum that they are relative to is known.

sum(w exp(x - m)) and exp(x - m) @ v wait for m, the maximum of x over all columns: a pass, and the
products that make x, for m alone. But with another maximum they are the same times a number,

    exp(x - m) = exp(x - m') exp(m' - m),

so one pass keeps the maximum so far, and scales what was summed up whenever it grows. That the body
has this form follows from its ops (`online.py`); it is evaluated as it stands, with the maximum so
far in the place of the final one.

Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", alg. 3; Dao et al.
2022, "FlashAttention", alg. 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowgrad.codegen.online import form_of, unrounded
from lowgrad.codegen.operands import accumulated
from lowgrad.codegen.stream_sums import finished, summed_index, with_block
from lowgrad.codegen.stream_tiles import StreamTiles
from lowgrad.codegen.streamed import Streamed, is_inner
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_


@dataclass(frozen=True)
class Early:
    """What a sum of exp(x - shift) is scaled by: shift follows from `anchor`, the maximum of x.

    is_finite: whether shift is a number even where all of x is -inf so far.
    tells_nan: whether the sum is NaN wherever some x is: of exp(x - shift) itself.
    """

    anchor: Node
    shift: Value
    is_finite: bool
    tells_nan: bool


@dataclass(frozen=True)
class Passes:
    """In which pass each sum along the other axis is made; of `early` ones, with their anchors."""

    of: Mapping[Node, int]
    early: Mapping[Node, Early]


def passes_of(
    needed: Sequence[Node], producers: Mapping[Value, Node], shape: Streamed, axis: int
) -> Passes:
    """The passes of the sums among `needed`, a kernel's nodes in order."""
    depth: dict[Value, int] = {}
    of: dict[Node, int] = {}
    early: dict[Node, Early] = {}
    for node in needed:
        own = max((depth.get(v, 0) for v in node.inputs), default=0)
        if node.op.family in ("contraction", "reduction") and shape.sums(node, 1 - axis):
            found = _early(node, own, producers, shape, axis, depth, of) if own else None
            if found is not None:
                early[node] = found
                own = of[found.anchor]
            of[node] = own
            own += 1
        elif is_inner(node, shape, axis):
            own += 1
        depth.update(dict.fromkeys(node.outputs, own))
    return Passes(of, early)


def _early(
    node: Node,
    own: int,
    producers: Mapping[Value, Node],
    shape: Streamed,
    axis: int,
    depth: Mapping[Value, int],
    of: Mapping[Node, int],
) -> Early | None:
    """How `node` can be made with its anchor; None if it cannot."""
    position = summed_index(node, shape)
    if position is None or (node.op.family == "reduction" and node.op.name != "sum"):
        return None
    if node.op.family == "contraction" and depth.get(node.inputs[1 - position], 0) >= own:
        return None
    value = node.inputs[position]
    # A product rounds its operand, which is the same share of it whatever it is scaled by.
    while (made := producers.get(value)) is not None and made.op.name == "cast":
        (value,) = made.inputs
    form = form_of(producers, value, own, depth)
    if form is None or form.f != "exp":
        return None
    shift = form.shift
    while (made := producers.get(shift)) is not None and made.op.name in ("expand", "reshape"):
        (shift,) = made.inputs
    if not shape.lies(shift, axis) or shape.lies(shift, 1 - axis):
        return None
    used = [form.x] if form.weight is None else [form.x, form.weight]
    first = max(depth.get(v, 0) for v in used)
    for anchor, at in of.items():
        is_of_x = anchor.op.name == "max" and unrounded(producers, anchor.inputs[0]) == form.x
        if is_of_x and at == first < own:
            is_finite = _follows(producers, shift, anchor.outputs[0])
            if is_finite is None:
                return None
            is_sum = node.op.family == "reduction" and form.weight is None
            return Early(anchor, shift, is_finite, tells_nan=is_sum and is_finite)
    return None


def _follows(producers: Mapping[Value, Node], shift: Value, maximum: Value) -> bool | None:
    """True if `shift` is where(m == -inf, number, m) of the maximum m, False if it is m itself.

    None if it is anything else.
    """
    if shift is maximum:
        return False
    node = producers.get(shift)
    if node is None or node.op.name != "where" or node.inputs[2] is not maximum:
        return None
    test = producers.get(node.inputs[0])
    if test is None or test.op.name != "eq" or maximum not in test.inputs:
        return None
    least = [_number(producers, v) for v in test.inputs if v is not maximum]
    number = _number(producers, node.inputs[1])
    is_so = least == [-math.inf] and number is not None and math.isfinite(number)
    return True if is_so else None


def _number(producers: Mapping[Value, Node], value: Value) -> float | None:
    """The number that fills `value`, if it is a `full`."""
    node = producers.get(value)
    return float(node.attrs["value"]) if node is not None and node.op.name == "full" else None


class Rescaled:
    """The early sums of one pass: made before its loop, told of each block's beginning and end."""

    def __init__(
        self, t: StreamTiles, early: Mapping[Node, Early], totals: Mapping[Node, Tile]
    ) -> None:
        self.t, self.totals = t, totals
        self.early = {n: e for n, e in early.items() if n in totals}
        self.anchors = list(dict.fromkeys(e.anchor for e in self.early.values()))
        shifts = dict.fromkeys(e.shift for e in self.early.values())
        self.shifts = {shift: self._start(shift) for shift in shifts}
        self._now: dict[Node, Tile] = {}
        self._telling = {e.anchor: self.totals[n] for n, e in self.early.items() if e.tells_nan}

    def _start(self, shift: Value) -> Tile:
        # What was summed up is 0 yet, whatever it is scaled by.
        dtype = accumulated(shift.type.dtype)
        return self.t.body.fill(0.0, dtype, ("BLOCK_M", "1"), name="shift_so_far")

    def begin_block(self, across: Index) -> None:
        """Take the block into the maxima, and scale what was summed up before it."""
        t, body = self.t, self.t.body
        is_first: dict[Node, Tile] = {}
        for anchor in self.anchors:
            so_far = self.totals[anchor]
            body.wish, body.loc = "", anchor.loc
            is_first[anchor] = body.let("eq", so_far, -math.inf, dtype=bool_, name="is_first")
            # A maximum that NaN goes through takes several instructions for each score.
            fn = "max_number" if anchor in self._telling else "max"
            self._now[anchor] = with_block(t, anchor, so_far, across, fn)
            t.reader.given[anchor.outputs[0]] = finished(t, anchor, self._now[anchor])
        for node, early in self.early.items():
            total = self.totals[node]
            scale = self._scale(early, is_first[early.anchor])
            body.wish, body.loc = "", node.loc
            scaled = body.let("mul", total, scale, dtype=total.dtype, name="scaled")
            if not early.is_finite:
                # Until some x is more than -inf, what is summed up may be NaN.
                fresh = is_first[early.anchor]
                scaled = body.let("where", fresh, 0.0, scaled, dtype=total.dtype, name="scaled")
            body.update(total, scaled)

    def _scale(self, early: Early, is_first: Tile) -> Tile:
        t, body = self.t, self.t.body
        so_far = self.shifts[early.shift]
        shift = t.reader.tile(early.shift, t.place(early.shift, t.own, None))
        shift = body.broadcast(shift, ("BLOCK_M", "1"), so_far.dtype)
        body.wish, body.loc = "", early.anchor.loc
        change = body.let("sub", so_far, shift, dtype=so_far.dtype, name="change")
        factor = body.let("exp", change, dtype=so_far.dtype, name="factor")
        return body.let("where", is_first, 0.0, factor, dtype=so_far.dtype, name="scale")

    def end_block(self) -> None:
        """Remember the maxima, and what they shift by."""
        t = self.t
        for shift, so_far in self.shifts.items():
            now = t.reader.tile(shift, t.place(shift, t.own, None))
            t.body.update(so_far, t.body.broadcast(now, ("BLOCK_M", "1"), so_far.dtype))
        for anchor in self.anchors:
            t.body.update(self.totals[anchor], self._with_nan(anchor))

    def _with_nan(self, anchor: Node) -> Tile:
        """The maximum, NaN where a sum says that some x is."""
        now, body = self._now[anchor], self.t.body
        if anchor not in self._telling:
            return now
        body.wish, body.loc = "", anchor.loc
        # Of an infinite maximum the sum is NaN as well.
        is_nan = body.let("isnan", self._telling[anchor], dtype=bool_, name="is_nan")
        below = body.let("lt", now, math.inf, dtype=bool_, name="is_below")
        spoiled = body.let("and", is_nan, below, dtype=bool_, name="is_spoiled")
        return body.let("where", spoiled, math.nan, now, dtype=now.dtype, name="maximum")
