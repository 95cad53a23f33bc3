"""Regions: a node whose body is a Graph, to be run as one kernel."""

from __future__ import annotations

from typing import Any, ClassVar

from lowgrad.errors import ShapeError
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret_wide
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.types import TensorType

KINDS = ("pointwise", "rows", "matmul", "multi")


class Fused(Op):
    """fused(*inputs; body, kind): the outputs of the graph `body`, of which nothing else is stored.

    Inside, arithmetic is in the wide types; only outputs and explicit casts round. `kind` is the
    skeleton that codegen uses and changes no value.
    """

    name = "fused"
    family = "region"
    absent: ClassVar[dict[str, str]] = {
        "vjp": "autodiff runs before fusion",
        "emit": "the nodes of the body have it",
    }

    def infer(self, *types: TensorType, body: Graph, kind: str) -> tuple[TensorType, ...]:
        if kind not in KINDS:
            raise ShapeError(f"fused: {kind!r} is no kind of region; there are {', '.join(KINDS)}")
        expected = tuple(v.type for v in body.inputs)
        if types != expected:
            raise ShapeError(f"fused: the body takes {_listed(expected)}, not {_listed(types)}")
        if body.aliases:
            raise ShapeError("fused: the body has aliases; they belong to the whole program")
        return tuple(v.type for v in body.outputs)

    def evaluate(self, *arrays: Array, body: Graph, kind: str) -> tuple[Array, ...]:
        return interpret_wide(body, *arrays)


def _listed(types: tuple[Any, ...]) -> str:
    return "(" + ", ".join(map(str, types)) + ")"


fused = register(Fused())
