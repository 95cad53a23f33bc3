"""The eager tape: what was applied to which values, and its differentiation.

A Ref is an immutable value: an array (eager) or a graph value (while recording), and where it came
from. The tape is made of the same Nodes as a Graph, so `.backward()` hands them to the same pass
that a compiled step uses, `passes.autodiff`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from lowgrad.errors import AutogradError
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.op import Op
from lowgrad.ir.types import TensorType
from lowgrad.ir.walk import needed
from lowgrad.passes.autodiff import gradients

_order = itertools.count()


class Ref:
    """One immutable value. `array` is None while it exists only in a recorded graph; else NumPy's
    or, on a GPU, a DeviceArray.

    `step` is the tape entry that made it (None for leaves), `tracked` whether gradients flow
    through it, `leaf` refers weakly to the tensor that accumulates its gradient.
    """

    __slots__ = ("array", "leaf", "step", "tracked", "type", "value")

    def __init__(
        self,
        type_: TensorType,
        array: Any = None,
        value: Value | None = None,
        tracked: bool = False,
    ) -> None:
        self.type = type_
        self.array = array
        self.value = value
        self.tracked = tracked
        self.step: Step | None = None
        self.leaf: Callable[[], Any] | None = None

    def named(self) -> Value:
        """The Value that stands for this ref on the tape, made when first needed."""
        if self.value is None:
            self.value = Value(self.type)
        return self.value


class Step:
    """One entry of the tape: a node, the refs it read and the arrays it made."""

    __slots__ = ("inputs", "node", "order", "outputs")

    def __init__(self, op: Op, inputs: tuple[Ref, ...], attrs: Any, outputs: tuple[Ref, ...]):
        values = tuple([r.named() for r in inputs])
        self.node: Node | None = Node(op, values, attrs, tuple([r.named() for r in outputs]))
        self.inputs = inputs
        # Arrays, not refs: an output's ref points here, and a cycle would outlive its last user.
        self.outputs = tuple([r.array for r in outputs])
        self.order = next(_order)
        for ref in outputs:
            ref.tracked = ref.type.dtype.is_floating_point
            if ref.tracked:
                ref.step = self

    def release(self) -> None:
        """Let go of everything that this step kept alive for its derivative."""
        self.node, self.inputs, self.outputs = None, (), ()


def already_freed() -> AutogradError:
    """The error for a second backward over the same history."""
    return AutogradError(
        "backward: part of this graph was already differentiated, and its values freed",
        fix="pass retain_graph=True to the first backward",
    )


def tape_of(roots: Sequence[Ref]) -> list[Step]:
    """The steps that `roots` came from, in the order they ran."""
    found: dict[int, Step] = {}
    todo = [ref.step for ref in roots if ref.step is not None]
    while todo:
        step = todo.pop()
        if step.order in found:
            continue
        if step.node is None:
            raise already_freed()
        found[step.order] = step
        todo.extend(ref.step for ref in step.inputs if ref.step is not None)
    return [found[order] for order in sorted(found)]


def differentiate(
    roots: Sequence[Ref],
    seeds: Sequence[Ref],
    wrt: Sequence[Ref],
    run: Callable[[Node, tuple[Ref, ...]], tuple[Ref, ...]],
    *,
    retain: bool,
) -> list[Ref | None]:
    """The gradients of sum(roots * seeds) with respect to `wrt`, by the autodiff pass.

    `run` evaluates one node of the derivative on refs; recording it (for gradients of gradients)
    is its business.
    """
    steps = tape_of(roots)
    builder = Builder()
    env: dict[Value, Ref] = {}
    nodes: list[Node] = []
    for step in steps:
        assert step.node is not None, "tape_of refuses released steps"
        nodes.append(step.node)
        for value, array in zip(step.node.outputs, step.outputs, strict=True):
            made = Ref(value.type, array, value, tracked=value.type.dtype.is_floating_point)
            made.step = step
            env[value] = made
        for ref in step.inputs:
            env[ref.named()] = ref
    for ref in (*roots, *seeds, *wrt):
        env.setdefault(ref.named(), ref)
    tracers = gradients(
        builder,
        nodes,
        [r.named() for r in roots],
        [builder.wrap(s.named()) for s in seeds],
        [r.named() for r in wrt],
        lambda v: env[v].tracked,
    )
    _evaluate(builder, [t for t in tracers if t is not None], env, run)
    if not retain:
        for step in steps:
            step.release()
    return [None if t is None else env[t.value] for t in tracers]


def _evaluate(
    builder: Builder,
    targets: Sequence[Tracer],
    env: dict[Value, Ref],
    run: Callable[[Node, tuple[Ref, ...]], tuple[Ref, ...]],
) -> None:
    wanted = needed(builder.nodes, [t.value for t in targets])
    for node in wanted:
        env.update(zip(node.outputs, run(node, tuple([env[v] for v in node.inputs])), strict=True))
