"""The scan skeleton: running sums along lines of the input, and sorting them."""

from __future__ import annotations

import math

from lowgrad.codegen.kernel import CumSum, Kernel, Reduce
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.reader import At, Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.sort import sort
from lowgrad.codegen.tiling import Tiling, power_of_2, warps_for
from lowgrad.ir.graph import Node
from lowgrad.ir.index import Index, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_, float64, int64


def scan(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel, a program a line; those of a sort; none if there are no elements."""
    if region.outputs[0][1].type.numel == 0:
        return ()
    (node,) = region.nodes
    if node.inputs[0].type.shape[node.attrs["dim"]] == 1:
        return pointwise_kernel(region, tiling, lambda reader: _unchanged(reader, node))
    if node.op.name == "cumsum":
        return (_Line(region, tiling).running_sums(),)
    return sort(region, tiling)


def _unchanged(reader: Reader, node: Node) -> None:
    """Results for lines of one element: the element, and its place."""
    (x,) = node.inputs
    reader.given[node.outputs[0]] = lambda at: reader.value(x, at)
    for places in node.outputs[1:]:
        reader.given[places] = lambda at: 0


class _Line:
    """Writes one kernel down, for the line of elements along `dim` that a program owns."""

    def __init__(self, region: Region, tiling: Tiling) -> None:
        self.region = region
        (self.node,) = region.nodes
        (self.x,) = self.node.inputs
        self.dim: int = self.node.attrs["dim"]
        shape = self.x.type.shape
        self.size = shape[self.dim]
        self.others = tuple(n for d, n in enumerate(shape) if d != self.dim)
        self.block = min(power_of_2(self.size), tiling.scan)
        self.body = region.body()
        self.reader = region.reader(self.body)

    def _at(self, row: Index, col: Index) -> At:
        others = list(unflatten(row, self.others))
        return (*others[: self.dim], col, *others[self.dim :])

    def _kernel(self, programs: int, num_warps: int) -> Kernel:
        constants = {"BLOCK": self.block}
        return self.region.kernel(self.body, constants, programs, num_warps)

    def running_sums(self) -> Kernel:
        """Blocks of the line in turn; the sum so far is carried from each to the next."""
        body = self.body
        row = body.program_id(math.prod(self.others), "row")
        dtype = self.x.type.dtype
        # f64, as the op says: an f32 sum of a long line is all rounding.
        wide = float64 if dtype.is_floating_point else int64
        so_far = body.fill(0.0 if wide is float64 else 0, wide, name="so_far")
        (_, param), *_ = self.region.outputs
        with body.loop("start", self.size, "BLOCK") as start:
            cols = body.add_lanes("cols", self.size, start, "BLOCK", self.block)
            at = self._at(row, cols)
            x = self.reader.tile(self.x, at)
            body.wish, body.loc = "", self.node.loc
            x = body.let("cast", x, dtype=wide)
            (mask,) = body.masks_of(cols) or ("",)
            if mask:
                inside = Tile(body, mask, bool_)
                x = body.let("where", inside, x, 0.0 if wide is float64 else 0, dtype=wide)
            sums = Tile(body, body.fresh("cumsum"), wide)
            body.add(CumSum(sums.name, x.name, 0), body.lanes_of(x.name))
            total = Tile(body, body.fresh("total"), wide)
            zero = 0.0 if wide is float64 else 0
            body.add(Reduce(total.name, "sum", x.name, 0, False, wide, (), zero))
            result = body.let("add", sums, so_far, dtype=wide)
            flat = flatten(at, self.x.type.shape)
            body.store(param.name, flat, result, body.masks_of(flat))
            body.update(so_far, body.let("add", so_far, total, dtype=wide))
        return self._kernel(math.prod(self.others), warps_for(self.block))
