"""Running and describing kernels: on NumPy arrays by Triton's interpreter, and for compilers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.kernel import Kernel, Param
from lowgrad.codegen.lower import lower
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.errors import ArgumentError
from lowgrad.ir.graph import Node
from lowgrad.ir.types import DType

Array = npt.NDArray[Any]

TRITON_TYPES = {
    "f64": "fp64", "f32": "fp32", "f16": "fp16", "bf16": "bf16", "b1": "i1",
}  # fmt: skip


def run_kernels(
    kernels: Sequence[Kernel], arrays: Mapping[str, Array], *, check: bool = True
) -> None:
    """Run the kernels of one node in order, on the interpreter, in place on `arrays`.

    arrays: by param name, contiguous, of the params' types; scratch ones may be left out.
    Raises KernelCheckError if `check` finds a fault, ArgumentError for a missing array.
    """
    # Imported here, since these need Triton, and describing a kernel does not.
    from lowgrad.codegen.triton.interpret import Descriptor, interpret
    from lowgrad.codegen.triton.load import load

    known = dict(arrays)
    for kernel in kernels:
        for param in kernel.params:
            if param.role == "scratch":
                known.setdefault(param.name, np.empty(param.type.shape, param.type.dtype.numpy))
            if param.name not in known:
                raise ArgumentError(f"{kernel.name}: no array for {param.name}, {param.type}")
        fn = load(kernel.source, kernel.name)
        given = [
            Descriptor(known[p.name], p.box.shape, p.box.block) if p.box else known[p.name]
            for p in kernel.params
        ]
        interpret(fn, kernel.grid, given, kernel.constants, check=check)


def run_node(
    node: Node,
    operands: Sequence[Array],
    tiling: Tiling = DEFAULT,
    *,
    outputs: Sequence[Array] = (),
    check: bool = True,
) -> tuple[Array, ...]:
    """The outputs of `node` on `operands`, computed by its kernels on the interpreter.

    outputs: contiguous arrays to write them to, in place of new ones.
    """
    kernels = lower(node, tiling)
    if not outputs:
        outputs = [np.empty(v.type.shape, v.type.dtype.numpy) for v in node.outputs]
    by_value = dict(zip(node.inputs, map(np.ascontiguousarray, operands), strict=True))
    by_value.update(zip(node.outputs, outputs, strict=True))
    # ascontiguousarray makes 0-d arrays 1-d, which has the same memory.
    arrays = {p.name: by_value[p.value] for k in kernels for p in k.params if p.value in by_value}
    run_kernels(kernels, arrays, check=check)
    return tuple(outputs)


def launch_signature(kernel: Kernel) -> tuple[dict[str, str], dict[str, int], tuple[str, ...]]:
    """What `cross_compile` asks for: (types of the arguments, constants, divisible by 16).

    Every pointer is divisible by 16 bytes; whoever launches sees to it.
    """
    signature = {p.name: argument_type(p) for p in kernel.params}
    pointers = tuple(p.name for p in kernel.params if p.box is None)
    return signature, dict(kernel.constants), pointers


def argument_type(param: Param) -> str:
    """Triton's name of a param's type: a pointer's, or "tensordesc<bf16[128, 64]>"."""
    pointer = pointer_type(param.type.dtype)
    if param.box is None:
        return pointer
    return f"tensordesc<{pointer.removeprefix('*')}{[*param.box.block]}>"


def pointer_type(dtype: DType) -> str:
    """Triton's name of a pointer to `dtype`: "*fp32". Bools are "*i1", a byte each."""
    return f"*{TRITON_TYPES.get(dtype.short, dtype.short)}"
