"""A whole step's kernels: run in order on the interpreter, or compiled for a target."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.loop import run_loop
from lowgrad.codegen.lower import is_free, lower
from lowgrad.codegen.run import launch_signature, run_node
from lowgrad.ir.graph import Graph, Value
from lowgrad.runtime.memory import Plan, plan

if TYPE_CHECKING:
    from lowgrad.codegen.triton.compile import Binary, Job

Array = npt.NDArray[Any]


class KernelExecutable:
    """Device "interpret": every generated kernel of the step, run and checked on the CPU."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs in order; inputs that an output takes over are updated in place and returned."""
        return run_graph(self.graph, arrays)


def run_graph(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    """Run the kernels of `graph` on the interpreter; aliased inputs are updated in place.

    Results lie where the memory plan puts them, over each other and over old state too, so that a
    plan which a kernel does not bear gives wrong numbers or a KernelCheckError.
    """
    memory = _Memory(graph, arrays)
    values = memory.values
    for node in graph.nodes:
        operands = [values[v] for v in node.inputs]
        if is_free(node):
            made: Sequence[Array] = (node.op.evaluate(*operands, **node.attrs),)
        elif node.op.family == "loop" and not lower(node):
            made = run_loop(node, operands, run_graph)
        else:
            made = run_node(node, operands, outputs=[memory.place(v) for v in node.outputs])
        values.update(zip(node.outputs, made, strict=True))
    # All are copied before any state is overwritten: one may be another's old value.
    results = [np.array(values[v]) for v in graph.outputs]
    for output, position in graph.aliases.items():
        arrays[position][...] = results[output]
        results[output] = arrays[position]
    return results


class _Memory:
    """The arrays of a run, by value. State is a copy until all has run: a fault changes nothing."""

    def __init__(self, graph: Graph, arrays: Sequence[Array]) -> None:
        state = set(graph.aliases.values())
        self.values: dict[Value, Array] = {
            v: np.array(a) if i in state else a
            for i, (v, a) in enumerate(zip(graph.inputs, arrays, strict=True))
        }
        self._plan = _planned(graph)
        self._arena = np.empty(self._plan.held_bytes, np.uint8)

    def place(self, value: Value) -> Array:
        """Where the plan has `value`; memory of its own for what the plan holds to be a view."""
        if value in self._plan.stored:
            return self.values[self._plan.stored[value]]
        if value not in self._plan.offsets:
            return np.empty(value.type.shape, value.type.dtype.numpy)
        start = self._plan.offsets[value]
        held = self._arena[start : start + value.type.nbytes]
        return held.view(value.type.dtype.numpy).reshape(value.type.shape)


@lru_cache(maxsize=64)
def _planned(graph: Graph) -> Plan:
    return plan(graph)


def distinct(kernels: Iterable[Kernel]) -> list[Kernel]:
    """One kernel of each code."""
    return list({identity(k): k for k in kernels}.values())


def identity(kernel: Kernel) -> Hashable:
    """What a kernel's machine code depends on. Its text has no types of params, nor constants."""
    dtypes = tuple([(p.type.dtype, p.box) for p in kernel.params])
    constants = tuple(kernel.constants.items())
    return (kernel.source, dtypes, constants, kernel.num_warps, kernel.num_stages)


def cross_compile_kernels(kernels: Iterable[Kernel], target: str) -> tuple[Binary, ...]:
    """A binary for each distinct kernel. `target`: "cuda:80", "cuda:90", "hip:gfx942", ..."""
    from lowgrad.codegen.triton.store import compiled

    return tuple(compiled([job_of(kernel, target) for kernel in distinct(kernels)]))


def job_of(kernel: Kernel, target: str) -> Job:
    """What the compiler is asked for."""
    from lowgrad.codegen.triton.compile import Job

    return Job(
        kernel.source,
        kernel.name,
        *launch_signature(kernel),
        target,
        num_warps=kernel.num_warps,
        num_stages=kernel.num_stages,
    )
