"""The sums of a streaming kernel: what each starts from, how a block adds to it, how it is read."""

from __future__ import annotations

from collections.abc import Callable

from lowgrad.codegen.kernel import Reduce
from lowgrad.codegen.operands import accumulated
from lowgrad.codegen.reader import At
from lowgrad.codegen.stream_tiles import StreamTiles
from lowgrad.codegen.streamed import DoesNotFit, Streamed
from lowgrad.ir.graph import Node
from lowgrad.ir.index import Index
from lowgrad.ir.tile import Tile
from lowgrad.ops.reduction import Reduction


def start(t: StreamTiles, node: Node) -> Tile:
    """What the sum `node` is before the first block."""
    value = node.outputs[0]
    t.body.wish, t.body.loc = "", node.loc
    dtype = accumulated(value.type.dtype)
    if node.op.family == "contraction":
        constant = t.feature(value)[1]
        return t.body.fill(0.0, dtype, ("BLOCK_M", constant), name="total")
    assert isinstance(node.op, Reduction), "reductions are of their family"
    return t.body.fill(node.op.identity(dtype), dtype, ("BLOCK_M", "1"), name=node.op.name)


def add_block(t: StreamTiles, node: Node, total: Tile, across: Index, down: Index) -> None:
    """Add what a block of the other axis makes of the sum `node`."""
    if node.op.family == "contraction":
        _add_product(t, node, total, across, down)
    else:
        t.body.update(total, with_block(t, node, total, across))


def finished(t: StreamTiles, node: Node, total: Tile) -> Callable[[At], Tile]:
    """The sum `node`, once all blocks are in it."""
    value = node.outputs[0]

    def read(at: At) -> Tile:
        if not t.is_own(at, value):
            raise DoesNotFit("a sum is read in another order than it is made")
        return Tile(t.body, total.name, value.type.dtype)

    return read


def inner_sum(t: StreamTiles, node: Node) -> Callable[[At], Tile]:
    """A reduction over the inner size, of the program's own block."""

    def read(at: At) -> Tile:
        body, (value,) = t.body, node.inputs
        assert isinstance(node.op, Reduction), "reductions are of their family"
        lanes, constant = t.feature(value)
        if not t.is_own(at, node.outputs[0]):
            raise DoesNotFit("a sum is read in another order than it is made")
        x = t.reader.tile(value, t.place(value, t.own, None))
        x = body.broadcast(x, ("BLOCK_M", constant), value.type.dtype)
        masks = tuple(m for m in body.masks_of(lanes) if m)
        name = body.fresh(node.op.name)
        dtype = accumulated(value.type.dtype)
        identity = node.op.identity(dtype)
        body.add(
            Reduce(name, node.op.name, x.name, 1, True, dtype, masks, identity),
            body.lanes_of(t.own),
        )
        return Tile(body, name, value.type.dtype)

    return read


def summed(t: StreamTiles, node: Node) -> int:
    """Which operand of a sum along the other axis lies along both: blocks of scores."""
    found = summed_index(node, t.shape)
    if found is None:
        raise DoesNotFit("both operands of a sum lie along the rows, or none does")
    return found


def summed_index(node: Node, shape: Streamed) -> int | None:
    """As `summed`; None if both operands of a product lie so, or none does."""
    if node.op.family != "contraction":
        return 0
    slicing = shape.slicing
    both = [i for i in (0, 1) if all(slicing[a][node].ins[i] is not None for a in (0, 1))]
    return both[0] if len(both) == 1 else None


def adds_nothing(t: StreamTiles, node: Node, known: object) -> bool:
    """Whether an element of what is summed that is known to be `known` adds nothing."""
    if node.op.family == "contraction":
        return isinstance(known, int | float) and known == 0
    assert isinstance(node.op, Reduction), "reductions are of their family"
    identity = node.op.identity(accumulated(node.inputs[0].type.dtype))
    return isinstance(known, int | float) and known == identity


def _add_product(t: StreamTiles, node: Node, total: Tile, across: Index, down: Index) -> None:
    """total += the block of scores @ the other operand's block."""
    ours = summed(t, node)
    if t.shape.slicing[t.axis][node].ins[1 - ours] is not None:
        raise DoesNotFit("both operands of a sum lie along the rows")
    weights = t.operand(node, ours, t.own, across)
    rest = t.operand(node, 1 - ours, None, down)
    t.dot(node, total, weights, rest)
    t.follows_score = False


def with_block(t: StreamTiles, node: Node, total: Tile, across: Index, fn: str = "") -> Tile:
    """A reduction's `total` combined with this block's, which is reduced by `fn` or as it says."""
    assert isinstance(node.op, Reduction), "reductions are of their family"
    body, (value,) = t.body, node.inputs
    x = t.reader.tile(value, t.place(value, t.own, across))
    x = body.broadcast(x, ("BLOCK_M", "BLOCK_N"), value.type.dtype)
    masks = tuple(
        lane.mask
        for lane in body.lanes.values()
        if lane.mask and lane.constant == "BLOCK_N" and lane.axis == 1
    )
    body.wish, body.loc = "", node.loc
    name = body.fresh(f"block_{node.op.name}")
    identity = node.op.identity(total.dtype)
    body.add(
        Reduce(name, fn or node.op.name, x.name, 1, True, total.dtype, masks, identity),
        body.lanes_of(t.own),
    )
    part = Tile(body, name, total.dtype)
    return body.let(node.op.combine, total, part, dtype=total.dtype)
