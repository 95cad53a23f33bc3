"""A planned step as one Python function of NumPy calls, written out, compiled once, and kept."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import Array
from lowgrad.ir.types import bfloat16, float16
from lowgrad.runtime.cpu import functions
from lowgrad.runtime.cpu.erf import erf
from lowgrad.runtime.cpu.gemm import add_product
from lowgrad.runtime.cpu.loop import RowLoop
from lowgrad.runtime.cpu.parallel import run_chunks
from lowgrad.runtime.cpu.region import Code, Slot
from lowgrad.runtime.cpu.scratch import codes_of
from lowgrad.runtime.memory import FREE_VIEWS, Plan, over_of

ALIGNMENT = 64
# Characters of a step from which on compiling it takes memory worth giving back.
LONG_SOURCE = 1 << 15


class Executable:
    """Runs a planned step. `source` is its text; `arena` all the memory it has of its own."""

    def __init__(self, source: str, names: dict[str, Any], arena: Array) -> None:
        self.source = source
        self.arena = arena
        exec(compile(source, "<lowgrad step>", "exec"), names)
        if len(source) > LONG_SOURCE:
            _give_back()
        # NaN to whoever reads before writing.
        arena.fill(0xFF)
        self._step: Callable[[Sequence[Array]], list[Array]] = names["step"]

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs in order. Inputs that an output takes over are updated in place and returned.

        arrays: one for each graph input, contiguous, in storage dtypes.
        """
        with np.errstate(all="ignore"):
            return self._step(arrays)


def build(graph: Graph, plan: Plan, arena: Array | None = None) -> Executable:
    """The executable of `graph` under `plan`, in `arena` or in one of exactly that size."""
    return _Builder(graph, plan, arena).build()


def _aligned(nbytes: int) -> Array:
    """`nbytes` of memory that is not there before it is written."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]


def _maker(value: Value) -> Callable[[], Array]:
    """Makes the array of a result."""
    shape, dtype = value.type.shape, value.type.dtype.numpy
    return lambda: np.empty(shape, dtype)


def _globals() -> dict[str, Any]:
    names: dict[str, Any] = {name: getattr(np, name) for name in functions.UFUNCS.values()}
    names |= {name: getattr(np, name) for name in ("copyto", "reciprocal", "matmul")}
    names |= {name: getattr(np, name) for name in ("logical_or", "logical_and", "broadcast_to")}
    names |= {
        "erf": erf,
        "add_product": add_product,
        "run_chunks": run_chunks,
        "inf": np.inf,
        "nan": np.nan,
    }
    names |= {"bfloat16": bfloat16.numpy, "float16": float16.numpy}
    return names


def _give_back() -> None:
    """Return to the system what Python's compiler took: 17 MB for a transformer's step.

    The C library would keep it, and the process would need it beside the arena. Where there is no
    such call (not glibc), it keeps it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Builder:
    def __init__(self, graph: Graph, plan: Plan, arena: Array | None) -> None:
        self.graph, self.plan = graph, plan
        self.over = {**plan.stored, **plan.reused}
        self.arena = _aligned(plan.held_bytes) if arena is None else arena
        self.globals = _globals()
        self.lines: list[str] = []
        counter = itertools.count()
        self.names: dict[Value, str] = {v: f"v{next(counter)}" for v in graph.inputs}
        for value in (v for n in graph.nodes for v in n.outputs):
            old = plan.stored.get(value)
            self.names[value] = self.names[old] if old is not None else f"v{next(counter)}"
        self.bound: dict[Value, Array] = {}
        self._where = ""

    def build(self) -> Executable:
        if self.graph.inputs:
            names = "".join(f"{self.names[v]}, " for v in self.graph.inputs)
            self.lines.append(f"({names}) = arrays")
        self._make_results()
        for index, node in enumerate(self.graph.nodes):
            self._comment(node)
            self._node(index, node)
        self._finish()
        body = "\n".join(f"    {line}" for line in self.lines)
        source = f"def step(arrays):\n{body}\n"
        return Executable(source, self.globals, self.arena)

    def _make_results(self) -> None:
        """Before anything is written: where there is no memory for them, nothing has changed.

        The system gives the pages when they are written.
        """
        for position, value in enumerate(self.graph.outputs):
            if position in self.plan.copied:
                name = f"out{position}"
            elif value in self.plan.results:
                name = self.names[value]
            else:
                continue
            self.globals[f"new_{name}"] = _maker(value)
            self.lines.append(f"{name} = new_{name}()")

    def _comment(self, node: Node) -> None:
        where = "" if node.loc is None else f"{node.loc.file}:{node.loc.line}"
        if where and where != self._where:
            self.lines.append(f"# {where}")
            self._where = where

    def _at(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self.arena[offset : offset + nbytes].view(dtype).reshape(shape)

    def _bind(self, value: Value, array: Array) -> None:
        self.bound[value] = array
        self.globals[self.names[value]] = array

    def _node(self, index: int, node: Node) -> None:
        for value in node.outputs:
            if value in self.plan.offsets:
                at = self.plan.offsets[value]
                self._bind(value, self._at(at, value.type.shape, value.type.dtype.numpy))
        if self._is_view(node):
            self._view(node)
            return
        if node.op.family == "loop":
            self._rows(index, node)
            return
        inputs = [self.names[v] for v in dict.fromkeys(node.inputs)]
        outputs = [self.names[v] for v in node.outputs]
        codes = codes_of(node, inputs, outputs, over_of(node, self.over))
        scratch = self.plan.scratch.get(index, 0)
        for part, (at, code) in enumerate(codes):
            self._code(code, scratch + at, f"{index}_{part}")

    def _rows(self, index: int, node: Node) -> None:
        scratch = self.arena[self.plan.scratch.get(index, 0) :]
        self.globals[f"rows{index}"] = RowLoop(node, scratch, build)
        inputs = "".join(f"{self.names[v]}, " for v in node.inputs)
        outputs = "".join(f"{self.names[v]}, " for v in node.outputs)
        self.lines.append(f"rows{index}(({inputs}), ({outputs}))")

    def _is_view(self, node: Node) -> bool:
        free = node.op.name in FREE_VIEWS or node.op.name == "reshape"
        return free and not (node.output in self.plan.offsets or node.output in self.plan.results)

    def _view(self, node: Node) -> None:
        """A view of the arena is made here, once; one of an input, at each call."""
        source, value = node.inputs[0], node.output
        if source in self.bound:
            self._bind(value, node.op.evaluate(self.bound[source], **node.attrs))
            return
        key = f"{node.op.name}_{self.names[value]}"
        op, attrs = node.op, dict(node.attrs)
        self.globals[key] = lambda array: op.evaluate(array, **attrs)
        self.lines.append(f"{self.names[value]} = {key}({self.names[source]})")

    def _code(self, code: Code, scratch: int, tag: str) -> None:
        self.globals |= code.constants
        for slot in code.slots:
            if not slot.is_chunk:
                self.globals[slot.name] = self._slot(slot, scratch)
        self.lines += code.before
        if code.chunks is not None:
            self._loop(code, scratch, tag)
        self.lines += code.after

    def _slot(self, slot: Slot, base: int) -> Array:
        return self._at(base + slot.offset, slot.shape, slot.dtype.numpy)

    def _loop(self, code: Code, scratch: int, tag: str) -> None:
        assert code.chunks is not None, "a loop has chunks"
        own = [s for s in code.slots if s.is_chunk]
        base = scratch + code.whole_bytes
        self.globals[f"slots{tag}"] = [
            tuple(self._slot(s, base + thread * code.chunk_bytes) for s in own)
            for thread in range(code.chunks.threads)
        ]
        self.lines.append(f"def chunk{tag}(lo, hi, k, slots):")
        inner = ["n = hi - lo"]
        if own:
            inner.append(f"({''.join(f'{s.name}, ' for s in own)}) = slots")
        self.lines += [f"    {line}" for line in inner + code.loop]
        size, rows = code.chunks.size, code.chunks.rows
        self.lines.append(f"run_chunks(chunk{tag}, {size}, {rows}, slots{tag})")

    def _finish(self) -> None:
        """Copy out what is not the caller's yet, and state that was not written in place."""
        graph, plan = self.graph, self.plan
        results: list[str] = []
        late: list[str] = []
        for position, value in enumerate(graph.outputs):
            taken = graph.aliases.get(position)
            name = self.names[value]
            if position in plan.copied:
                # Before state is written: this may be old state.
                self.lines.append(f"copyto(out{position}, {name})")
                name = f"out{position}"
            if taken is None:
                results.append(name)
                continue
            home = self.names[graph.inputs[taken]]
            results.append(home)
            if plan.stored.get(value) is not graph.inputs[taken]:
                late.append(f"copyto({home}, {name})")
        self.lines += late
        self.lines.append(f"return [{', '.join(results)}]")
