"""A row loop on the CPU: the step of one chunk, called for each, on views of the whole arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.op import Array
from lowgrad.ir.slicing import window
from lowgrad.ops.rows import dims_of, identity
from lowgrad.runtime.memory import LoopLayout, Plan, addressed, piece_plan

Build = Callable[[Graph, Plan, Array], Callable[[Sequence[Array]], list[Array]]]


class RowLoop:
    """Runs one `rows` node. All that it allocates is in `scratch`."""

    def __init__(self, node: Node, scratch: Array, build: Build) -> None:
        attrs = node.attrs
        body: Graph = attrs["body"]
        dims = dims_of(body, attrs["dims"])
        self.steps, self.chunk = attrs["steps"], attrs["chunk"]
        self.ins = [dims[v] for v in body.inputs]
        self.outs = [dims[v] for v in body.outputs]
        layout = LoopLayout(node)
        pieces: tuple[Graph, ...] = attrs["pieces"]
        self.run = {
            taken: build(addressed(piece), piece_plan(piece), scratch[: layout.arena_bytes])
            for taken, piece in zip((self.chunk, self.steps % self.chunk), pieces, strict=False)
        }
        sums = sum(isinstance(dim, str) for dim in self.outs)
        self.reads_start = len(pieces[0].inputs) > len(self.ins) + sums
        self.start = np.empty((), np.int64)
        self.spread = {
            taken: {p: _at(scratch, layout.spread[p], piece.outputs[p].type) for p in layout.spread}
            for taken, piece in zip((self.chunk, self.steps % self.chunk), pieces, strict=False)
        }
        self.starts = [
            identity(dim, v.type.dtype) if isinstance(dim, str) else None
            for dim, v in zip(self.outs, node.outputs, strict=True)
        ]

    def __call__(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Fill `outputs`, in whose memory nothing is read."""
        for output, start in zip(outputs, self.starts, strict=True):
            if start is not None:
                output.fill(start)
        for first in range(0, self.steps, self.chunk):
            self._piece(inputs, outputs, first, min(self.chunk, self.steps - first))

    def _piece(
        self, inputs: Sequence[Array], outputs: Sequence[Array], first: int, taken: int
    ) -> None:
        at = (first, taken, self.steps)
        arrays = [window(a, dim, *at) for a, dim in zip(inputs, self.ins, strict=True)]
        arrays += [a for a, dim in zip(outputs, self.outs, strict=True) if isinstance(dim, str)]
        if self.reads_start:
            self.start[...] = first
            arrays.append(self.start)
        spread = self.spread[taken]
        places = [
            (spread.get(position), window(a, dim, *at))
            for position, (a, dim) in enumerate(zip(outputs, self.outs, strict=True))
            if isinstance(dim, int)
        ]
        arrays += [place if own is None else own for own, place in places]
        self.run[taken](arrays)
        for own, place in places:
            if own is not None:
                np.copyto(place, own)


def _at(scratch: Array, offset: int, type_: Any) -> Array:
    part = scratch[offset : offset + type_.nbytes]
    return part.view(type_.dtype.numpy).reshape(type_.shape)
