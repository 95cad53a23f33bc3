"""Run a kernel on NumPy arrays, without a GPU, and check what it does to memory.

Slow (about half a millisecond for each program of the grid): for small grids with odd tails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.triton.load import require_triton
from lowgrad.codegen.triton.lock import language_lock
from lowgrad.codegen.triton.memory import AccessError, Memory
from lowgrad.errors import ArgumentError, KernelCheckError, short_path

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Descriptor:
    """An argument that is a descriptor: `array` seen as a matrix, read in blocks."""

    array: Array
    shape: tuple[int, int]
    block: tuple[int, int]


def interpret(
    fn: Any,
    grid: tuple[int, ...],
    args: Sequence[Array | Descriptor | int | float | np.generic],
    constants: Mapping[str, object],
    *,
    check: bool = True,
    poison: float = math.nan,
) -> None:
    """Run the kernel `fn`, as `load` returns it, in place on the arrays among `args`.

    Descriptors are arrays, too, whose blocks are 0 where they reach past the matrix.

    args: for the arguments that are not in `constants`, in the kernel's order. An int is passed as
    i32, or as i64 where it must be, a float as fp32, a NumPy scalar as its own type.

    Each access must lie within its array, from its lowest to its highest byte, and be aligned.
    With `check` it is also an error
    - if one program stores where another stores or loads: nothing orders them,
    - if two lanes of one store write different values to one place,
    - if an int32 overflows, or a `tl.device_assert` does not hold,
    and dead lanes of a masked load without `other` hold `poison` (0x5A in integers), where a GPU
    leaves them undefined. NaN is lost in a maximum, so `check_dead_lanes` tries other poisons too.

    Raises KernelCheckError naming kernel, program, argument, lanes and line.
    """
    require_triton()
    from lowgrad.codegen.triton import builder

    names = _value_names(fn, args, constants)
    arrays = _arrays_of(names, args)
    memory = Memory(list(arrays), list(arrays.values()), watch=check)
    sizes = _grid3(grid)
    memory.program_id = lambda program: _program_id(program, sizes)
    pointers = {
        name: builder.pointer(memory.pointer(position), array.dtype)
        for position, (name, array) in enumerate(arrays.items())
    }
    with language_lock:
        scalars = {
            n: builder.scalar(_numpy_scalar(n, a))
            for n, a in zip(names, args, strict=True)
            if not isinstance(a, np.ndarray | Descriptor)
        }
        boxes = {n: a for n, a in zip(names, args, strict=True) if isinstance(a, Descriptor)}
        try:
            builder.run(
                fn,
                sizes,
                {**constants, **pointers, **scalars},
                {name: (box.shape, box.block) for name, box in boxes.items()},
                memory,
                poison,
                checked=check,
            )
        except Exception as error:
            raise _check_error(fn, _program_id(memory.program, sizes), error) from error


def check_dead_lanes(
    fn: Any,
    grid: tuple[int, ...],
    args: Sequence[Array | Descriptor | int | float | np.generic],
    constants: Mapping[str, object],
) -> None:
    """Run the kernel under several poisons; the results must not differ in a bit.

    Finds what one poison hides: NaN is lost in a maximum, and a large number in a minimum.
    The arrays hold afterwards what they held before.
    Raises KernelCheckError naming the argument whose values depend on dead lanes.
    """
    names = _value_names(fn, args, constants)
    arrays = _arrays_of(names, args)
    # 3e4 is within float16's range.
    first, *others = [
        _results(fn, grid, args, constants, arrays, poison) for poison in (math.nan, 3e4, -3e4)
    ]
    for name in arrays:
        if any(other[name] != first[name] for other in others):
            raise KernelCheckError(
                f"{_name(fn)}: values of {name} depend on dead lanes of a masked load", at=""
            )


def _results(
    fn: Any,
    grid: tuple[int, ...],
    args: Sequence[Array | Descriptor | int | float | np.generic],
    constants: Mapping[str, object],
    arrays: Mapping[str, Array],
    poison: float,
) -> dict[str, bytes]:
    """The bytes of each array after a run, which is then undone.

    In place and not on copies, which would have other strides and not overlap as these may.
    """
    before = {name: array.copy() for name, array in arrays.items()}
    try:
        interpret(fn, grid, args, constants, poison=poison)
        return {name: array.tobytes() for name, array in arrays.items()}
    finally:
        for name, array in arrays.items():
            if array.flags.writeable:
                array[...] = before[name]


def _arrays_of(names: Sequence[str], args: Sequence[object]) -> dict[str, Array]:
    """The arrays among the arguments, those behind descriptors too."""
    plain = [a.array if isinstance(a, Descriptor) else a for a in args]
    return {n: a for n, a in zip(names, plain, strict=True) if isinstance(a, np.ndarray)}


def _value_names(fn: Any, args: Sequence[object], constants: Mapping[str, object]) -> list[str]:
    """The arguments that are not constants, in the kernel's order."""
    names = [name for name in fn.arg_names if name not in constants]
    if unknown := [name for name in constants if name not in fn.arg_names]:
        raise ArgumentError(f"{_name(fn)} has no argument {', '.join(unknown)}")
    if len(names) != len(args):
        raise ArgumentError(
            f"{_name(fn)} takes {len(names)} values for {', '.join(names)}, got {len(args)}"
        )
    return names


def _grid3(grid: tuple[int, ...]) -> tuple[int, int, int]:
    if not 1 <= len(grid) <= 3:
        raise ArgumentError(f"a grid has 1 to 3 sizes, not {len(grid)}: {grid}")
    x, y, z = (*grid, 1, 1)[:3]
    return x, y, z


def _program_id(program: int, grid: tuple[int, int, int]) -> tuple[int, ...]:
    """The indices of the program that runs as number `program`, from 1."""
    return tuple(int(i) for i in np.unravel_index(max(program - 1, 0), [max(n, 1) for n in grid]))


def _numpy_scalar(name: str, value: object) -> np.generic:
    if isinstance(value, np.generic):
        return value
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int32(value) if -(2**31) <= value < 2**31 else np.int64(value)
    if isinstance(value, float):
        return np.float32(value)
    raise ArgumentError(f"argument {name} is a {type(value).__name__}, not an array or a number")


def _check_error(fn: Any, program_id: tuple[int, ...], error: Exception) -> KernelCheckError:
    what = str(error)
    if not isinstance(error, AccessError):
        what = f"the interpreter failed: {type(error).__name__}: {error}"
    return KernelCheckError(
        f"{_name(fn)}: {what}, in program {program_id}", at=_kernel_line(fn, error.__traceback__)
    )


def _kernel_line(fn: Any, traceback: TracebackType | None) -> str:
    """The line of the kernel's own file that an error came from, innermost first."""
    file = fn.fn.__code__.co_filename
    found = ""
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            found = f"{short_path(file)}:{traceback.tb_lineno}, in {_name(fn)}"
        traceback = traceback.tb_next
    return found


def _name(fn: Any) -> str:
    return str(fn.fn.__name__)
