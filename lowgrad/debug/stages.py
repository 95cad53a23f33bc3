"""Checking a dump: every stage on the same inputs, and who is at fault where two differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lowgrad.codegen.lower import is_free, lower
from lowgrad.codegen.run import run_node as run_kernels
from lowgrad.codegen.step import KernelExecutable
from lowgrad.compare import apart, errors, farthest, same_bits
from lowgrad.debug.inputs import made_up, save, saved
from lowgrad.debug.reduce import reduced
from lowgrad.errors import ArgumentError, LowgradError
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.interpret import interpret
from lowgrad.ir.interpret import run_node as reference
from lowgrad.ir.text import parse
from lowgrad.ir.walk import alone, needed
from lowgrad.passes.base import Pass
from lowgrad.passes.pipeline import SIMPLIFY
from lowgrad.passes.pipeline import lower as lowering
from lowgrad.passes.trades import Trades
from lowgrad.runtime.cpu.program import build
from lowgrad.runtime.memory import plan

Array = npt.NDArray[Any]
# The first stage has the forward pass alone, so it has other outputs.
FIRST = "autodiff"


@dataclass(frozen=True)
class Stage:
    """One file of a dump: the graph after the pass `name`."""

    name: str
    path: Path
    graph: Graph


@dataclass(frozen=True)
class Fault:
    """A pass whose result differs from its operand, or a node whose kernels differ from it.

    graph, arrays: the smallest case that shows it. apart: by how much, of the largest element.
    is_shown: whether the pass that is installed makes it; else the file is not what it gives.
    """

    name: str
    kind: str
    graph: Graph
    arrays: list[Array]
    apart: float
    is_shown: bool = True


def stages(folder: Path) -> list[Stage]:
    """The stages of a dump in order. Raises ArgumentError if there are none."""
    paths = sorted(folder.glob("[0-9]*-*.ir"))
    if not paths:
        below = sorted({str(path.parent) for path in folder.glob("*/01-*.ir")})
        raise ArgumentError(
            f'"{folder}" holds no dump: there are no files like 01-autodiff.ir',
            fix=f"name one of those below: {', '.join(below[:3])}" if below else None,
        )
    found = []
    for path in paths:
        name = path.stem.partition("-")[2]
        if name != "trace":
            found.append(Stage(name, path, parse(path.read_text("utf-8", "replace"), str(path))))
    return found


def passes_of(folder: Path) -> dict[str, Pass]:
    """The passes that made a dump, by name; loops and recomputation as they were asked for."""
    summary = folder / "summary.json"
    held = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    trades = Trades(**held.get("trades", {}))
    steps = (*SIMPLIFY, *lowering(trades, held.get("fuse", True)))
    return {step.name: step for step in steps}


def first_wrong_pass(folder: Path, *, seconds: float = 60.0) -> Fault | None:
    """The first stage whose outputs differ from those of the one before, cut down; None if none.

    Inputs are the dump's own (inputs.npz) if it has them, or made up, once positive, once signed.
    """
    found, known = stages(folder), passes_of(folder)
    for arrays in _inputs(folder, found[0].graph):
        before = found[0]
        expected = interpret(before.graph, *arrays)
        for stage in found[1:]:
            step = known.get(stage.name)
            worst = differs(before.graph, stage.graph, arrays, expected, is_exact(step))
            if worst:
                return _cut(before.graph, stage, step, arrays, worst, seconds)
            before, expected = stage, interpret(stage.graph, *arrays)
    return None


def is_exact(step: Pass | None) -> bool:
    """Whether a pass may not change a bit."""
    return step is not None and step.exact


def differs(
    before: Graph, after: Graph, arrays: Sequence[Array], expected: Sequence[Array], exact: bool
) -> float:
    """By how much the outputs of `after` are wrong; 0 if they are not, inf if it does not run."""
    try:
        made = interpret(after, *arrays)
    except (LowgradError, ValueError, IndexError):
        return float("inf")
    if exact:
        # A sum of zeros may differ in its sign, which no bit of any use depends on.
        pairs = zip(made, expected, strict=True)
        return max((apart(a, b) for a, b in pairs if not same_bits(a, b)), default=0.0)
    return max(errors(before, arrays, made, expected), default=0.0)


def _cut(
    graph: Graph,
    stage: Stage,
    step: Pass | None,
    arrays: list[Array],
    worst: float,
    seconds: float,
) -> Fault:
    """The fault in the fewest nodes; as it was, if the installed pass does not show it."""
    if step is None:
        return Fault(stage.name, "pass", graph, arrays, worst, is_shown=False)
    run = step

    def shows(part: Graph, given: list[Array]) -> bool:
        try:
            after = run(part)
        except Exception:  # a part may be what the pass was never meant for
            return False
        return differs(part, after, given, interpret(part, *given), run.exact) > 0

    if not shows(graph, arrays):
        return Fault(stage.name, "pass", graph, arrays, worst, is_shown=False)
    small, given = reduced(graph, arrays, shows, seconds=seconds)
    return Fault(stage.name, "pass", small, given, worst)


# --- Kernels ---


def first_wrong_kernel(folder: Path, *, seconds: float = 60.0) -> Fault | None:
    """The first node of the last stage whose kernels differ from the reference, cut down."""
    final = stages(folder)[-1].graph
    for arrays in _inputs(folder, final):
        values = dict(zip(final.inputs, arrays, strict=True))
        for node in final.nodes:
            operands = [values[v] for v in node.inputs]
            worst = kernel_differs(node, operands)
            if worst:
                small, given = _cut_kernel(node, operands, seconds)
                return Fault(_ops(node), "kernel", small, given, worst)
            made = reference(node, tuple(operands))
            values.update(zip(node.outputs, made, strict=True))
    return None


def kernel_differs(node: Node, operands: Sequence[Array]) -> float:
    """By how much a node's kernels, on the interpreter, are wrong; inf if they do not run."""
    if is_free(node) or not lower(node):
        return 0.0
    expected = reference(node, tuple(operands))
    try:
        made = run_kernels(node, operands)
    except LowgradError:
        return float("inf")
    given = dict(zip(node.inputs, operands, strict=True))
    return max(errors(alone(node), list(given.values()), made, expected), default=0.0)


def _cut_kernel(node: Node, operands: Sequence[Array], seconds: float) -> tuple[Graph, list[Array]]:
    """The smallest part of a region's body whose kernel is still wrong, as a region of its own."""
    whole = alone(node)
    given = dict(zip(node.inputs, operands, strict=True))
    arrays = [given[v] for v in whole.inputs]
    if node.op.name != "fused":
        return whole, arrays
    body: Graph = node.attrs["body"]

    def region(part: Graph) -> Node:
        return Node(node.op, part.inputs, {**node.attrs, "body": part}, part.outputs, node.loc)

    def shows(part: Graph, values: list[Array]) -> bool:
        try:
            # The values are given as they are stored, not as wide as inside the region.
            return kernel_differs(region(part), values) > 0
        except Exception:  # not every part of a region is one that has a kernel
            return False

    small, values = reduced(body, list(operands), shows, seconds=seconds)
    if not shows(small, values):
        return whole, arrays
    return alone(region(small)), values


def size_of(graph: Graph) -> int:
    """How many operations a case has, those in regions counted."""
    return sum(
        len(node.attrs["body"].nodes) if node.op.name == "fused" else 1 for node in graph.nodes
    )


def _ops(node: Node) -> str:
    body = node.attrs.get("body")
    if body is None:
        return str(node.op.name)
    last = needed(body.nodes, body.outputs)[-3:]
    return "a region that ends in " + " + ".join(n.op.name for n in last)


def _inputs(folder: Path, graph: Graph) -> list[list[Array]]:
    own = folder / "inputs.npz"
    if own.exists():
        return [saved(graph, own)]
    return [made_up(graph), made_up(graph, 1, signed=True)]


# --- What is generated for a graph ---


def generated(
    graph: Graph, arrays: Sequence[Array], expected: Sequence[Array]
) -> Iterator[tuple[str, list[str]]]:
    """What runs a graph, by name, and for each result that it makes wrong, how.

    On a CPU, and, with Triton installed, kernel by kernel on the interpreter.
    """
    for name, run in _programs(graph):
        given = [a.copy() for a in arrays]
        try:
            made = run(given)
        except LowgradError as error:
            yield name, [str(error)]
            continue
        wrong = errors(graph, arrays, made, expected)
        yield (
            name,
            [
                f"output {number} by {found:.2g} of its largest element, {farthest(a, b)}"
                for number, (found, a, b) in enumerate(zip(wrong, made, expected, strict=True))
                if found
            ],
        )


def _programs(graph: Graph) -> Iterator[tuple[str, Callable[[list[Array]], Sequence[Array]]]]:
    yield "on a CPU", build(graph, plan(graph))
    if find_spec("triton") is not None:
        yield "as kernels", KernelExecutable(graph)


# --- Saving what was found ---

TEST = '''\
"""{what}, cut down from a dump: run it with pytest."""

from pathlib import Path

from lowgrad.debug.inputs import saved
from lowgrad.debug.stages import {check}
from lowgrad.ir.text import parse

HERE = Path(__file__).parent
TEXT = """\\
{text}
"""


def test_{name}():
    graph = parse(TEXT)
    arrays = saved(graph, HERE / "{npz}")

    assert {check}({arguments}) == 0.0
'''


def save_as_test(fault: Fault, folder: Path) -> Path:
    """Write a fault down as a test that fails until it is mended."""
    name = "".join(c if c.isalnum() else "_" for c in fault.name)[:40].strip("_")
    target = folder / f"test_{fault.kind}_{name}.py"
    save(target.with_suffix(".npz"), fault.arrays)
    if fault.kind == "pass":
        what, check = f"The pass {fault.name} gives a wrong graph", "pass_differs"
        arguments = f'"{fault.name}", graph, arrays'
    else:
        what, check, arguments = "A kernel is wrong", "kernels_differ", "graph, arrays"
    target.write_text(
        TEST.format(
            what=what,
            check=check,
            text=str(fault.graph).replace("\\", "\\\\"),
            name=f"{fault.kind}_{name}",
            npz=target.with_suffix(".npz").name,
            arguments=arguments,
        ),
        encoding="utf-8",
    )
    return target


def pass_differs(name: str, graph: Graph, arrays: Sequence[Array]) -> float:
    """By how much the pass called `name`, as installed, changes the outputs of `graph`."""
    step = next(s for s in (*SIMPLIFY, *lowering(Trades())) if s.name == name)
    return differs(graph, step(graph), arrays, interpret(graph, *arrays), step.exact)


def kernels_differ(graph: Graph, arrays: Sequence[Array]) -> float:
    """By how much the kernels of the graph's one node are wrong."""
    (node,) = graph.nodes
    given = dict(zip(graph.inputs, arrays, strict=True))
    return kernel_differs(node, [given[v] for v in node.inputs])
