"""Watching a compiled step while it runs: `lowgrad.compile(check=True, nan="raise")`.

After a call, the reference runs on the same inputs. A fault is raised before anybody sees what the
call made: state is put back to what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.compare import errors, farthest
from lowgrad.config import settings
from lowgrad.errors import KernelCheckError
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.interpret import interpret
from lowgrad.ir.interpret import run_node as reference
from lowgrad.ir.types import TensorType, dtype_of
from lowgrad.ir.walk import alone, producers
from lowgrad.nans import refuse_nan
from lowgrad.runtime.cuda.array import DeviceArray, download, upload
from lowgrad.runtime.cuda.memory import to_device
from lowgrad.runtime.cuda.streams import current_stream

Array = npt.NDArray[Any]
Run = Callable[[Sequence[Any]], list[Any]]


class Checked:
    """An executable whose calls are checked.

    graph: as recorded, what the step means. lowered: what `run` runs. alone: makes an executable of
    a graph with a single node of `lowered`. every: check each so many calls, 0 for never.
    nan: whether a NaN in a result is an error.
    """

    def __init__(
        self,
        run: Run,
        graph: Graph,
        lowered: Graph,
        alone: Callable[[Graph], Run],
        *,
        every: int = 0,
        nan: bool = False,
    ) -> None:
        self.run, self.graph, self.lowered, self.alone = run, graph, lowered, alone
        self.every, self.nan = every, nan
        self.calls = 0
        self._alone: dict[Node, Run] = {}

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """What `run` gives. Raises KernelCheckError, NaNError; state is then as before the call."""
        self.calls += 1
        is_checked = bool(self.every) and (self.calls - 1) % self.every == 0
        if not (is_checked or self.nan):
            return self.run(arrays)
        before = [_on_host(a, copy=True) for a in arrays]
        results = self.run(arrays)
        try:
            if is_checked:
                self._check_kernels(before, arrays)
                self._check_results(before, results)
            if self.nan:
                made = [_on_host(a) for a in results]
                refuse_nan(self.graph, f"call {self.calls} of {self.graph.name}", before, made)
        except BaseException:
            for position in self.graph.aliases.values():
                _put_back(arrays[position], before[position])
            raise
        return results

    # --- Against the reference ---

    def _check_kernels(self, before: Sequence[Array], like: Sequence[Any]) -> None:
        """Run each kernel alone on what the reference gives it."""
        values: dict[Value, Array] = dict(zip(self.lowered.inputs, before, strict=True))
        on_gpu = next((a.device for a in like if isinstance(a, DeviceArray)), None)
        for number, node in enumerate(self.lowered.nodes):
            operands = tuple(values[v] for v in node.inputs)
            expected = reference(node, operands)
            if node not in self._alone:
                self._alone[node] = self.alone(alone(node))
            given = dict(zip(node.inputs, operands, strict=True))
            made = self._alone[node]([_placed(a, on_gpu) for a in given.values()])
            results = [_on_host(a) for a in made]
            wrong = errors(alone(node), list(given.values()), results, expected)
            for position, found in enumerate(wrong):
                if found:
                    where = farthest(results[position], expected[position])
                    self._blame(number, node, position, f"{found:.2g}", where, given)
            values.update(zip(node.outputs, expected, strict=True))

    def _blame(
        self,
        number: int,
        node: Node,
        position: int,
        found: str,
        where: str,
        given: dict[Value, Array],
    ) -> None:
        value = node.outputs[position]
        saved = _saved(self.lowered.name, number, alone(node), given)
        raise KernelCheckError(
            f"call {self.calls} of {self.lowered.name}: the kernel of {_ops(node)} differs from "
            f"the reference by {found} of its largest element",
            operands=[
                f"{value.hint or f'output {position}'}  {value.type}: {where}",
                f"its inputs and its IR are in {saved}",
            ],
            at=str(node.loc or ""),
            fix=f"lowgrad dump run {saved}.ir --inputs {saved}.npz --check",
        )

    def _check_results(self, before: Sequence[Array], results: Sequence[Any]) -> None:
        """Compare what the call made with the meaning of what was recorded."""
        expected = interpret(self.graph, *before)
        made = [_on_host(a) for a in results]
        wrong = errors(self.graph, before, made, expected)
        made_by = producers(self.graph)
        for value, found, got, want in zip(self.graph.outputs, wrong, made, expected, strict=True):
            if found:
                node = made_by.get(value)
                raise KernelCheckError(
                    f"call {self.calls} of {self.graph.name}: a result differs from the reference "
                    f"by {found:.2g} of its largest element, each kernel alone does not: a pass or "
                    "the memory plan is at fault",
                    operands=[f"{value.hint or 'result'}  {value.type}: {farthest(got, want)}"],
                    at=str(node.loc or "") if node is not None else "",
                    fix="LOWGRAD_DUMP=dir, then: lowgrad dump check dir/...",
                )


# --- Arrays ---


def _on_host(array: Any, *, copy: bool = False) -> Array:
    if isinstance(array, DeviceArray):
        return download(array)
    return np.array(array) if copy else np.asarray(array)


def _placed(array: Array, gpu: Any) -> Any:
    if gpu is None:
        return np.ascontiguousarray(array).reshape(array.shape)
    dtype = dtype_of(array)
    assert dtype is not None, "the reference gives arrays of lowgrad's types"
    return upload(array, TensorType(array.shape, dtype), gpu)


def _put_back(array: Any, before: Array) -> None:
    if isinstance(array, DeviceArray):
        to_device(before, array.pointer, current_stream(array.device))
    else:
        array[...] = before


# --- Saying who it was ---


def _ops(node: Node) -> str:
    body = node.attrs.get("body")
    if body is None:
        return node.op.name
    names = [n.op.name for n in body.nodes]
    return " + ".join(names if len(names) <= 8 else [*names[:7], f"{len(names) - 7} more"])


def _saved(name: str, number: int, graph: Graph, given: dict[Value, Array]) -> Path:
    """Write a node with its operands down; the path without its endings."""
    folder = settings().dump_dir or Path("lowgrad-check")
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{name}-node{number}"
    stem.with_suffix(".ir").write_text(f"{graph}\n", encoding="utf-8")
    bits = [a.view(np.uint16) if a.dtype.name == "bfloat16" else a for a in given.values()]
    np.savez(stem.with_suffix(".npz"), *bits)
    return stem
