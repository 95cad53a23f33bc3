"""Checking a step's kernels without a GPU: each against the meaning of the node it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.loop import run_loop
from lowgrad.codegen.lower import is_free, lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.step import run_graph
from lowgrad.errors import KernelCheckError
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.interpret import run_node as reference
from lowgrad.ir.types import TensorType

Array = npt.NDArray[Any]

# Relative and absolute, by the bytes of a float: a kernel adds up in another order.
TOLERANCE = {8: 1e-10, 4: 1e-4, 2: 2e-2}


def check_kernels(graph: Graph, seed: int = 0) -> int:
    """Run each node's kernels on the interpreter on made-up inputs; return how many nodes had any.

    Raises KernelCheckError for an access out of bounds, a race, or values other than the
    reference's, and MissingDependencyError without Triton.
    """
    rng = np.random.default_rng(seed)
    env = {v: made_up(v.type, rng) for v in graph.inputs}
    count = 0
    for node in graph.nodes:
        operands = tuple(env[v] for v in node.inputs)
        expected = reference(node, operands)
        if not is_free(node) and lower(node):
            _compare(node, run_node(node, operands), expected)
            count += 1
        elif node.op.family == "loop":
            _compare(node, run_loop(node, operands, run_graph), expected)
            count += 1
        env.update(zip(node.outputs, expected, strict=True))
    return count


def made_up(type_: TensorType, rng: np.random.Generator) -> Array:
    """Positive floats below 1; integers from 0 to 8, which fit the smallest index range used."""
    if type_.dtype.is_floating_point:
        return rng.uniform(0.1, 1.0, type_.shape).astype(type_.dtype.numpy)
    return rng.integers(0, 9, type_.shape).astype(type_.dtype.numpy)


def _compare(node: Node, got: tuple[Array, ...], expected: tuple[Array, ...]) -> None:
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        dtype = node.outputs[number].type.dtype
        tolerance = TOLERANCE[dtype.itemsize] if dtype.is_floating_point else 0.0
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True):
            apart = float(np.nanmax(np.abs(x - y)))
            raise KernelCheckError(
                f"the kernel of {node.op.name} differs from the reference by up to {apart:g}",
                operands=[f"output {number}  {node.outputs[number].type}"],
                at=str(node.loc or ""),
            )
