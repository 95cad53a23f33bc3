"""How many bytes of temporaries a node needs on the CPU, known without running it."""

from __future__ import annotations

import math

from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.walk import body_of
from lowgrad.runtime.cpu.region import ALIGNMENT, Code, Slot, Writer, wide
from lowgrad.runtime.cpu.segments import Cut, cut


def codes_of(
    node: Node, inputs: list[str], outputs: list[str], over: dict[int, int]
) -> list[tuple[int, Code]]:
    """The node's code in order, for arrays of these names, and where each part's scratch begins."""
    tag = outputs[0].strip("v") if outputs else ""
    body = body_of(node)
    parts = cut(body, over)
    whole = [(0, Writer(body, inputs, outputs, over, tag).write())]
    if parts is None:
        return whole
    # A small body has no loops, and then it may share more of its temporaries uncut.
    segments = _of_segments(body, parts, inputs, outputs, tag)
    return min(segments, whole, key=_bytes_of)


def _bytes_of(codes: list[tuple[int, Code]]) -> int:
    return max(at + code.scratch_bytes for at, code in codes)


def scratch_bytes(node: Node, over: dict[int, int]) -> int:
    """Bytes of temporaries of one node that is no view."""
    names = list(dict.fromkeys(node.inputs))
    xs = [f"x{i}" for i in range(len(names))]
    ys = [f"y{i}" for i in range(len(node.outputs))]
    return _bytes_of(codes_of(node, xs, ys, over))


def _of_segments(
    body: Graph, parts: Cut, inputs: list[str], outputs: list[str], tag: str
) -> list[tuple[int, Code]]:
    names = dict(zip(body.inputs, inputs, strict=True))
    targets = {v: [n for o, n in zip(body.outputs, outputs, strict=True) if o is v]
               for v in body.outputs}  # fmt: skip
    first = Code()
    for k, value in enumerate(parts.between):
        name = f"p{tag}_{k}"
        dtype = wide(value.type.dtype)
        if value in parts.homes:
            shape = "".join(f"{n}, " for n in value.type.shape)
            first.before.append(f"{name} = {outputs[parts.homes[value]]}.reshape(({shape}))")
        else:
            slot = Slot(name, first.whole_bytes, value.type.shape, dtype, False)
            nbytes = math.prod(value.type.shape) * dtype.itemsize
            first.whole_bytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
            first.slots.append(slot)
        names[value] = name
        targets[value] = [*targets.get(value, ()), name]
    codes = [(0, first)]
    between = frozenset(names[v] for v in parts.between)
    for k, segment in enumerate(parts.segments):
        part = segment.body
        results = [(v, t) for v in part.outputs for t in targets[v]]
        # A value under several names is an output as often; the first may be written over.
        whole = Graph(part.inputs, part.nodes, tuple(v for v, _ in results), {}, part.name)
        over = {}
        for o, i in segment.over.items():
            places = [j for j, (v, _) in enumerate(results) if v is part.outputs[o]]
            over[places[0]] = i
        for v, t in results:
            names.setdefault(v, t)
        writer = Writer(
            whole, [names[v] for v in part.inputs], [t for _, t in results], over, f"{tag}s{k}",
            between,
        )  # fmt: skip
        codes.append((first.whole_bytes, writer.write()))
    return codes
