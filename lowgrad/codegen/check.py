"""Checking a step's kernels without a GPU: each against the meaning of the node it computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.loop import run_loop
from lowgrad.codegen.lower import is_free, lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.step import run_graph
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.compare import errors, farthest
from lowgrad.errors import KernelCheckError
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.interpret import run_node as reference
from lowgrad.ir.types import TensorType
from lowgrad.ir.walk import alone

Array = npt.NDArray[Any]


def check_kernels(graph: Graph, seed: int = 0) -> int:
    """Run each node's kernels on the interpreter on made-up inputs; return how many nodes had any.

    Raises KernelCheckError for an access out of bounds, a race, or values other than the
    reference's, and MissingDependencyError without Triton.
    """
    rng = np.random.default_rng(seed)
    below = smallest_range(graph.nodes)
    env = {v: made_up(v.type, rng, below) for v in graph.inputs}
    count = 0
    for node in graph.nodes:
        operands = tuple(env[v] for v in node.inputs)
        expected = reference(node, operands)
        if not is_free(node) and lower(node):
            _compare(node, operands, run_node(node, operands), expected)
            count += 1
        elif node.op.family == "loop":
            _compare(node, operands, run_loop(node, operands, run_graph), expected)
            count += 1
        env.update(zip(node.outputs, expected, strict=True))
    return count


def check_node(node: Node, tiling: Tiling = DEFAULT, seed: int = 0) -> None:
    """Run the kernels of one node on made-up operands; raises as `check_kernels` does."""
    rng = np.random.default_rng(seed)
    below = smallest_range([node])
    operands = tuple(made_up(v.type, rng, below) for v in node.inputs)
    _compare(node, operands, run_node(node, operands, tiling), reference(node, operands))


def smallest_range(nodes: Iterable[Node]) -> int:
    """What every index that `nodes` use may be below: at most 9."""
    below = 9
    for node in nodes:
        if node.op.family == "indexing":
            below = min(below, node.inputs[0].type.shape[node.attrs["dim"]])
        if "body" in node.attrs:
            below = min(below, smallest_range(node.attrs["body"].nodes))
    return max(below, 1)


def made_up(type_: TensorType, rng: np.random.Generator, below: int) -> Array:
    """Positive floats below 1; integers from 0, `below` a limit."""
    if type_.dtype.is_floating_point:
        return rng.uniform(0.1, 1.0, type_.shape).astype(type_.dtype.numpy)
    return rng.integers(0, below, type_.shape).astype(type_.dtype.numpy)


def _compare(
    node: Node, operands: Sequence[Array], got: Sequence[Array], expected: Sequence[Array]
) -> None:
    given = dict(zip(node.inputs, operands, strict=True))
    wrong = errors(alone(node), list(given.values()), got, expected)
    for number, (found, a, b) in enumerate(zip(wrong, got, expected, strict=True)):
        if found:
            raise KernelCheckError(
                f"the kernel of {node.op.name} differs from the reference by {found:.2g} of its "
                "largest element",
                operands=[f"output {number}  {node.outputs[number].type}: {farthest(a, b)}"],
                at=str(node.loc or ""),
            )
