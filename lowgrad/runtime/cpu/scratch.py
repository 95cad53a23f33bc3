"""How many bytes of temporaries a node needs on the CPU, known without running it."""

from __future__ import annotations

from lowgrad.ir.graph import Node
from lowgrad.runtime.cpu.region import FREE, Code, Writer, body_of


def code_of(node: Node, inputs: list[str], outputs: list[str], over: dict[int, int]) -> Code:
    """The node's code, for arrays of these names."""
    tag = outputs[0].strip("v") if outputs else ""
    return Writer(body_of(node), inputs, outputs, over, tag).write()


def scratch_bytes(node: Node, over: dict[int, int]) -> int:
    """Bytes of temporaries of one node."""
    if node.op.name in FREE:
        return 0
    names = list(dict.fromkeys(node.inputs))
    xs = [f"x{i}" for i in range(len(names))]
    ys = [f"y{i}" for i in range(len(node.outputs))]
    return code_of(node, xs, ys, over).scratch_bytes
