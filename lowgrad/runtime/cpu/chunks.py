"""Which part of a body can be done a chunk of rows at a time, and how large the chunks are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lowgrad.ir.graph import Graph, Node, Value

# Bytes of one temporary of a chunk: a handful of them fit a core's second-level cache.
CHUNK_BYTES = 1 << 17
# Below this many bytes of temporaries everything is in cache anyway, and a loop only costs calls.
WORTH_BYTES = 1 << 20
# From this many bytes on, handing half of the chunks to another thread pays.
PARALLEL_BYTES = 1 << 23
THREADS = 2  # chunks in flight at most; results do not depend on it
FREE = frozenset(("reshape", "permute", "expand", "slice", "flip"))


@dataclass
class Chunks:
    """A loop over the leading axis of `size` rows, `rows` at a time.

    loop: nodes done for each chunk; chunked: their values. partial: reductions over the rows too,
    combined after the loop. after: nodes that follow from those.
    """

    size: int
    rows: int = 1
    threads: int = 1
    loop: set[Node] = field(default_factory=set)
    partial: set[Node] = field(default_factory=set)
    after: set[Node] = field(default_factory=set)
    chunked: set[Value] = field(default_factory=set)
    late: set[Value] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return -(-self.size // self.rows)

    def part(self, node: Node) -> int:
        """When `node` is done: 0 before the loop, 1 in it, 2 after it."""
        if node in self.loop or node in self.partial:
            return 1
        return 2 if node in self.after else 0


def chunking(body: Graph) -> Chunks | None:
    """The loop of `body`, or None if it is small or does not fall apart into rows."""
    size = _leading(body)
    if size < 2:
        return None
    chunks = Chunks(size)
    for node in body.nodes:
        if not _place(node, chunks):
            return None
    moved = [v.type for v in chunks.chunked]
    nbytes = sum(t.nbytes for t in moved)
    if nbytes < max(WORTH_BYTES, 1):
        return None
    chunks.threads = THREADS if nbytes >= PARALLEL_BYTES else 1
    row_bytes = max(math.prod(t.shape[1:]) * t.dtype.wide.itemsize for t in moved)
    chunks.rows = max(1, min(CHUNK_BYTES // row_bytes, size))
    return chunks if chunks.count > 1 else None


def _leading(body: Graph) -> int:
    """The leading size of the largest value that is computed."""
    made = [v.type for n in body.nodes for v in n.outputs if n.op.name not in FREE and v.type.shape]
    largest = max(made, key=lambda t: t.numel, default=None)
    return 0 if largest is None else largest.shape[0]


def _place(node: Node, chunks: Chunks) -> bool:
    """Put `node` before, into or after the loop; False if it fits nowhere."""
    is_late = not chunks.late.isdisjoint(node.inputs)
    in_loop = not chunks.chunked.isdisjoint(node.inputs)
    if is_late:
        if in_loop:
            return False
        chunks.after.add(node)
        chunks.late.update(node.outputs)
        return True
    if node.op.name in FREE:
        return not in_loop or _view(node, chunks)
    if node.op.family == "reduction" and node.op.name not in ("argmax", "argmin"):
        return _reduction(node, chunks)
    if node.op.family == "pointwise" and _has_rows(node.output, chunks):
        chunks.loop.add(node)
        chunks.chunked.add(node.output)
        return True
    if node.op.name in ("gather", "cat") and node.attrs["dim"] != 0 and in_loop:
        if not all(_has_rows(v, chunks) for v in (*node.inputs, node.output)):
            return False
        chunks.loop.add(node)
        chunks.chunked.add(node.output)
        return True
    return not in_loop  # products, gathers, ...: whole, before the loop


def _has_rows(value: Value, chunks: Chunks) -> bool:
    shape = value.type.shape
    return bool(shape) and shape[0] == chunks.size


def _view(node: Node, chunks: Chunks) -> bool:
    """A view of rows must leave the rows as they are."""
    name, source = node.op.name, node.inputs[0]
    keeps = name == "expand" or (name == "permute" and node.attrs["dims"][0] == 0)
    if name == "reshape":
        keeps = _has_rows(source, chunks)
    if not (keeps and _has_rows(node.output, chunks)):
        return False
    chunks.loop.add(node)
    chunks.chunked.add(node.output)
    return True


def _reduction(node: Node, chunks: Chunks) -> bool:
    if not _has_rows(node.inputs[0], chunks):
        return chunks.chunked.isdisjoint(node.inputs)
    if 0 not in node.attrs["dims"]:
        chunks.loop.add(node)
        chunks.chunked.add(node.output)
    else:
        chunks.partial.add(node)
        chunks.late.add(node.output)
    return True
