"""Reverse-mode differentiation: appends the derivative of recorded nodes to a builder.

Eager `.backward()` and a recorded step use the same function, also on nodes that it made itself
(gradients of gradients).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lowgrad.errors import VerifyError
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Node, Value


def gradients(
    builder: Builder,
    nodes: Sequence[Node],
    outputs: Sequence[Value],
    seeds: Sequence[Tracer],
    wrt: Sequence[Value],
    tracked: Callable[[Value], bool],
) -> list[Tracer | None]:
    """For each of `wrt`, the gradient of sum(outputs * seeds); None where there is no path.

    `nodes` are in execution order. Gradients flow through a node's output only if it is `tracked`.
    Each new node has the location of the forward node it belongs to. Takes linear time.
    """
    reached = _reached(nodes, wrt, tracked)
    total: dict[Value, Tracer] = {}
    for value, seed in zip(outputs, seeds, strict=True):
        if value in reached:
            _accumulate(total, value, seed)
    for node in reversed(nodes):
        if any(v in total for v in node.outputs):
            with builder.at(node.loc):
                _pull_back(builder, node, reached, total)
    return [total.get(value) for value in wrt]


def _reached(
    nodes: Sequence[Node], wrt: Sequence[Value], tracked: Callable[[Value], bool]
) -> set[Value]:
    """The values that depend on `wrt` through tracked floating values."""
    reached = set(wrt)
    for node in nodes:
        if not reached.isdisjoint(node.inputs):
            reached.update(v for v in node.outputs if v.type.dtype.is_floating_point and tracked(v))
    return reached


def _pull_back(
    builder: Builder, node: Node, reached: set[Value], total: dict[Value, Tracer]
) -> None:
    """Add to `total` what `node` contributes to the gradients of its inputs."""
    if reached.isdisjoint(node.inputs):
        return
    given: Any = tuple([total.get(v) for v in node.outputs])
    out: Any = tuple([builder.wrap(v) for v in node.outputs])
    if len(out) == 1:
        (given,), (out,) = given, out
    operands = [builder.wrap(v) for v in node.inputs]
    contributions = node.op.vjp(given, out, *operands, **node.attrs)
    for value, gradient in zip(node.inputs, contributions, strict=True):
        if gradient is not None and value in reached:
            _check(node, value, gradient)
            _accumulate(total, value, gradient)


def _accumulate(total: dict[Value, Tracer], value: Value, gradient: Tracer) -> None:
    total[value] = total[value] + gradient if value in total else gradient


def _check(node: Node, value: Value, gradient: Tracer) -> None:
    # A gradient of the wrong shape would broadcast silently further up; stop at the op at fault.
    if gradient.type != value.type:
        raise VerifyError(
            f"vjp of {node.op.name}: the gradient of an input of type {value.type} "
            f"is {gradient.type}"
        )
