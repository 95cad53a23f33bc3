"""Writes an ejected step: its memory, its kernels, its launches in order, and what runs them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.alike import alike
from lowgrad.codegen.cuda.machine import GpuMachine
from lowgrad.codegen.cuda.schedule import At, Call, CopyCall, KernelCall, Schedule, schedule
from lowgrad.codegen.kernel import Param
from lowgrad.codegen.lower import Launch
from lowgrad.codegen.triton.emit import functions
from lowgrad.eject import harness
from lowgrad.eject.arena import Arena
from lowgrad.eject.names import Names, wishes
from lowgrad.eject.rolled import Roll, addresses_of, rolled
from lowgrad.errors import ArgumentError
from lowgrad.ir.graph import Graph, Location
from lowgrad.ir.types import DType, TensorType
from lowgrad.runtime.memory import Plan, human

Array = npt.NDArray[Any]
COLUMNS = 100
MARK = "# --- Running it"
# Names that the file's own text uses.
OWN = frozenset(("triton", "tl", "os", "sys", "step", "device", "arena", "table", "results"))
OWN |= {"inputs", "constants", "piece"}
# By this a file is known to be an ejected step.
SIGNATURE = "Written by lowgrad."
HEAD = '''\
"""{name}: one compiled training step, as {kernels} kernels for {target}. Written by lowgrad.

    python {file} --interpret    on the CPU, by Triton's interpreter, every address checked
    python {file}                on an NVIDIA GPU (needs cuda-bindings, and Triton 3.9 or later)

The step runs on the arrays in {arrays} and prints what it returns. Change a kernel, run it again.

In this file: what the step reads and updates; its kernels; `step`, which launches them in order and
says where everything lies; and what runs them.
"""

import os
import sys

if "--interpret" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton looks when it is imported

import triton
import triton.language as tl
'''


def eject(
    path: str | Path,
    graph: Graph,
    plan: Plan,
    machine: GpuMachine,
    arrays: Mapping[int, Array],
) -> Path:
    """Write the step to `path`, and beside it, as .npz, the arrays that it is to run on.

    graph, plan: as they are run, planned for `machine`. arrays: by position of the graph's inputs;
    those that are numbers become run-time scalars in the text.
    Raises ArgumentError if there is a file that is not an ejected step.
    """
    target = Path(path)
    is_ours = target.exists() and SIGNATURE in target.read_text("utf-8", errors="replace")[:1000]
    for file in (target, target.with_suffix(".npz")):
        if file.exists() and not is_ours:
            raise ArgumentError(
                f'eject: there is a "{file}", which is of no ejected step and is not overwritten',
                fix="give another name",
            )
    writer = _Writer(graph, plan, machine, {i: np.asarray(a) for i, a in arrays.items()})
    target.write_text(writer.text(target), encoding="utf-8")
    np.savez(target.with_suffix(".npz"), **writer.saved())  # type: ignore[arg-type]
    return target


@dataclass(frozen=True)
class _Function:
    """A kernel's function in the file: its name there and its text."""

    name: str
    text: str


class _Writer:
    def __init__(
        self, graph: Graph, plan: Plan, machine: GpuMachine, arrays: Mapping[int, Array]
    ) -> None:
        self.graph, self.plan, self.machine, self.arrays = graph, plan, machine, arrays
        self.made: Schedule = schedule(graph, plan, machine)
        self.rolls = list(rolled(self.made.calls))
        self.helpers: dict[str, str] = {}
        self.functions = self._functions()
        taken = {f.name for f in self.functions.values()} | {*self.helpers, *vars(harness)}
        self.names = Names(taken | OWN)
        self.inputs = [self.names.fresh(v.hint or f"input{i}") for i, v in enumerate(graph.inputs)]
        self.results = [self.names.fresh(self._result(i)) for i in range(len(self.made.made))]
        self.arena = Arena(self.rolls, wishes(graph), self.names)

    # --- What there is ---

    def _functions(self) -> dict[int, _Function]:
        """The function of each kernel, by the kernel's id; equal texts are one."""
        unique = {id(c.kernel): c.kernel for c in self.made.calls if isinstance(c, KernelCall)}
        same = zip(unique, alike(Launch(k, 1) for k in unique.values()), strict=True)
        names, by_text = Names(), {}
        found: dict[int, _Function] = {}
        for number, (kernel, _) in same:
            *helpers, text = functions(kernel)
            self.helpers |= {re.search(r"def (\w+)", h)[1]: h for h in helpers}  # type: ignore[index]
            if text not in by_text:
                name = names.fresh(kernel.name)
                shown = text.replace(f"def {kernel.name}(", f"def {name}(", 1)
                by_text[text] = _Function(name, shown)
            found[number] = by_text[text]
        return found

    def _result(self, number: int) -> str:
        position = self.made.results.index(number)
        value = self.graph.outputs[position]
        return value.hint or ("result" if len(self.made.made) == 1 else f"result{number}")

    def saved(self) -> dict[str, Array]:
        """The arrays for the .npz, by name; bfloat16 as the integers of its bits."""
        return {
            self.inputs[i]: a.view(np.uint16) if a.dtype.name == "bfloat16" else a
            for i, a in self.arrays.items()
            if not self._is_scalar(i)
        }

    def _is_scalar(self, position: int) -> bool:
        type_ = self.graph.inputs[position].type
        is_state = position in self.graph.aliases.values()
        return type_.shape == () and position in self.arrays and not is_state

    # --- The text ---

    def text(self, path: Path) -> str:
        """The whole file."""
        parts = [
            self._head(path),
            "\n".join(self._tables()),
            *self.helpers.values(),
            *dict.fromkeys(f.text for f in self.functions.values()),
            "\n".join(self._step()),
            self._harness(),
        ]
        return "\n\n".join(part.strip("\n") + "\n" for part in parts)

    def _head(self, path: Path) -> str:
        return HEAD.format(
            name=self.graph.name,
            kernels=len(set(self.functions.values())),
            target=self.machine.tiling.target,
            file=path.name,
            arrays=path.with_suffix(".npz").name,
        )

    def _tables(self) -> Iterator[str]:
        yield "# What the step reads: name, dtype, shape. Scalars are given anew at each call."
        yield "INPUTS = ["
        updated = set(self.graph.aliases.values())
        for position, value in enumerate(self.graph.inputs):
            note = "  # updated" if position in updated else ""
            yield f"    {_row(self.inputs[position], value.type)},{note}"
        yield "]"
        yield "SCALARS = {"
        for position in range(len(self.graph.inputs)):
            if self._is_scalar(position):
                yield f'    "{self.inputs[position]}": {self.arrays[position].item()!r},'
        yield "}"
        yield "# What it returns: name, dtype, shape, bytes."
        yield "RESULTS = ["
        for name, type_ in zip(self.results, self.made.made, strict=True):
            yield f"    {_row(name, type_, type_.nbytes)},"
        yield "]"
        yield f"ARENA_BYTES = {self.plan.held_bytes}  # {human(self.plan.held_bytes)}"
        if self.made.table:
            yield "# Constants that kernels of row loops read: where a piece begins."
        yield from textwrap.wrap(
            f"TABLE = {self.made.table}", COLUMNS, subsequent_indent=" " * len("TABLE = [")
        )

    def _step(self) -> Iterator[str]:
        launches = [line for roll in self.rolls for line in self._rolled(roll)]
        yield "def step(device, arena, table, results, inputs):"
        yield '    """All launches of one step, in order. Pointers count in elements, as in C."""'
        yield "    # What is read and updated."
        yield from self._pointers(self.inputs, [v.type for v in self.graph.inputs], "inputs")
        yield from self._pointers(self.results, self.made.made, "results")
        if self.made.table:
            yield '    constants = Pointer(table, "int64")'
        if self.arena.buffers:
            yield "    # The arena: what shares a place is not needed at the same time."
        width = max((len(b.name) for b in self.arena.buffers), default=0)
        for b in sorted(self.arena.buffers, key=lambda b: b.offset):
            where = f'{b.name:<{width}} = Pointer(arena + {b.offset}, "{_type_name(b.type.dtype)}")'
            yield f"    {where}  # {[*b.type.shape]}{_at(b.loc)}"
        yield from launches

    def _pointers(
        self, names: Sequence[str], types: Sequence[TensorType], source: str
    ) -> Iterator[str]:
        width = max(map(len, names), default=0)
        for number, (name, type_) in enumerate(zip(names, types, strict=True)):
            kind = _type_name(type_.dtype)
            yield f'    {name:<{width}} = Pointer({source}[{number}], "{kind}")'

    def _rolled(self, roll: Roll) -> Iterator[str]:
        indent = "    "
        if roll.times > 1:
            yield ""
            yield f"    for piece in range({roll.times}):"
            indent = "        "
        for number, (call, strides) in enumerate(zip(roll.calls, roll.strides, strict=True)):
            if number or roll.times == 1:
                yield ""
            loc = call.loc if isinstance(call, KernelCall) else None
            if loc is not None:
                yield f"{indent}# {loc}"
            yield from _wrapped(indent, *self._call(call, strides))

    def _call(self, call: Call, strides: Sequence[int]) -> tuple[str, list[str]]:
        """A call's function, and its arguments."""
        if isinstance(call, CopyCall):
            places = [
                self._address(at, "uint8", step, None)
                for at, step in zip(addresses_of(call), strides, strict=True)
            ]
            sizes = [call.width] if call.rows == 1 else [call.width, call.rows]
            if call.rows > 1:
                sizes += [call.target_pitch or call.width, call.source_pitch or call.width]
            return "device.copy", [*places, *map(str, sizes)]
        kernel = call.kernel
        arguments = [self.functions[id(kernel)].name, str(int(np.prod(kernel.grid)))]
        for param, at, step in zip(kernel.params, call.addresses, strides, strict=True):
            place = self._address(at, _type_name(param.type.dtype), step, param)
            if param.box is not None:
                place = f"matrix({place}, {param.box.shape}, {param.box.block})"
            arguments.append(f"{param.name}={place}")
        arguments += [f"{name}={value}" for name, value in kernel.constants.items()]
        arguments += [f"num_warps={kernel.num_warps}", f"num_stages={kernel.num_stages}"]
        return "device.run", arguments

    def _address(self, at: At, dtype: str, step: int, param: Param | None) -> str:
        """The expression for an address; `step` bytes further with each piece of a loop."""
        if at.base.kind == "arena":
            buffer = self.arena.at(at.offset, param, step)
            name, own, offset = buffer.name, _type_name(buffer.type.dtype), 0
        elif at.base.kind == "table":
            name, own, offset = "constants", "int64", at.offset
        else:
            of_input = at.base.kind == "input"
            name = (self.inputs if of_input else self.results)[at.base.position]
            types = [v.type for v in self.graph.inputs] if of_input else self.made.made
            own, offset = _type_name(types[at.base.position].dtype), at.offset
        if own != dtype and param is not None:
            name, own = f'Pointer({name}.address, "{dtype}")', dtype
        size = harness.Type(own).itemsize
        terms = [f"{step // size} * piece" if step else "", str(offset // size) if offset else ""]
        return " + ".join([name, *filter(None, terms)])

    def _harness(self) -> str:
        source = Path(harness.__file__).read_text(encoding="utf-8")
        head, mark, body = source.partition(MARK)
        title, about, code = body.split("\n", 2)
        imports = [line for line in head.splitlines() if line.startswith(("import ", "from "))]
        imports.remove("import sys")  # the file has begun with it
        lines = [mark + title, about, "", *imports[:-1], "", imports[-1], "", code.strip("\n")]
        lines += ["", "", 'if __name__ == "__main__":']
        lines += ["    main(step, INPUTS, SCALARS, RESULTS, ARENA_BYTES, TABLE, __file__)"]
        return "\n".join(lines)


def _type_name(dtype: DType) -> str:
    """The type's name for Triton's launchers: "float32", "bfloat16", "int1"."""
    return "int1" if dtype.short == "b1" else dtype.name


def _row(name: str, type_: TensorType, *more: int) -> str:
    return repr((name, _type_name(type_.dtype), type_.shape, *more)).replace("'", '"')


def _at(loc: Location | None) -> str:
    return "" if loc is None else f", {loc}"


def _wrapped(indent: str, function: str, arguments: Sequence[str]) -> Iterator[str]:
    """A call on one line, or with its arguments below it, as many to a line as there is room."""
    line = f"{indent}{function}({', '.join(arguments)})"
    if len(line) <= COLUMNS:
        yield line
        return
    yield f"{indent}{function}("
    line = f"{indent}    "
    for argument in arguments:
        if len(line) + len(argument) + 1 > COLUMNS and line.strip():
            yield line.rstrip()
            line = f"{indent}    "
        line += f"{argument}, "
    yield line.rstrip()
    yield f"{indent})"
