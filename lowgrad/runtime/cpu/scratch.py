"""How many bytes of temporaries a node needs on the CPU, known without running it."""

from __future__ import annotations

from lowgrad.ir.graph import Node
from lowgrad.runtime.cpu.region import FREE, Code, Writer, body_of

THREADS = 2  # chunks in flight; results do not depend on it


def code_of(node: Node, inputs: list[str], outputs: list[str], over: dict[int, int]) -> Code:
    """The node's code, for arrays of these names."""
    tag = outputs[0].strip("v") if outputs else ""
    return Writer(body_of(node), inputs, outputs, over, tag).write()


def scratch_bytes(node: Node, over: dict[int, int]) -> int:
    """Bytes of temporaries of one node: one set for each chunk in flight."""
    if node.op.name in FREE:
        return 0
    names = list(dict.fromkeys(node.inputs))
    code = code_of(
        node,
        [f"x{i}" for i in range(len(names))],
        [f"y{i}" for i in range(len(node.outputs))],
        over,
    )
    return code.scratch_bytes * (THREADS if code.chunks else 1)
