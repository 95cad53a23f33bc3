"""What an ejected step runs with; its text from the line below on is the end of each such file.

It uses NumPy and Triton alone, so that an ejected file needs no lowgrad.
"""

import argparse
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# --- Running it ----------------------------------------------------------------------------------
# From here on nothing depends on the step: where memory comes from, and who runs the kernels.

NUMPY = {"bfloat16": "uint16", "int1": "bool"}


class Type(str):
    """A Triton type's name, as its launchers ask for it: with the bytes of an element."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(NUMPY.get(self, str(self))).itemsize


class Pointer:
    """An address of elements of a type. Adding goes on by elements, as in C."""

    def __init__(self, address: int, dtype: str) -> None:
        self.address, self.dtype = address, Type(dtype)

    def __add__(self, elements: int) -> "Pointer":
        return Pointer(self.address + elements * self.dtype.itemsize, self.dtype)

    def data_ptr(self) -> int:
        """The address, as Triton asks for it."""
        return self.address


def matrix(pointer: Pointer, shape: Sequence[int], block: Sequence[int]) -> Any:
    """A descriptor: the memory at `pointer` as a matrix, read in blocks."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(pointer, list(shape), [shape[1], 1], list(block))


class Cpu:
    """Runs the kernels by Triton's interpreter, program by program, with every address checked."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        self.running = ""
        correct_interpreter(self)

    def empty(self, nbytes: int) -> int:
        """Memory that is not zero, so that nothing gets by on what was not written."""
        self.held.append(np.full(nbytes + 16, 0xFF, np.uint8))
        start = int(self.held[-1].ctypes.data)
        return start + -start % 16

    def put(self, array: Any) -> int:
        """The address of a copy of `array`."""
        address = self.empty(array.nbytes)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        return address

    def get(self, address: int, nbytes: int) -> Any:
        """The bytes at an address."""
        return np.frombuffer(ctypes.string_at(address, nbytes), np.uint8)

    def copy(
        self,
        target: Pointer,
        source: Pointer,
        width: int,
        rows: int = 1,
        target_pitch: int = 0,
        source_pitch: int = 0,
    ) -> None:
        """`rows` rows of `width` bytes, each a pitch from the next."""
        for row in range(rows):
            at, come = target.address + row * target_pitch, source.address + row * source_pitch
            ctypes.memmove(at, come, width)

    def run(
        self, kernel: Any, grid: int, *, num_warps: int, num_stages: int, **arguments: Any
    ) -> None:
        """Run all programs of a kernel."""
        from triton.runtime.interpreter import GridExecutor

        class Grid(GridExecutor):  # type: ignore[misc]
            def _init_args_hst(self, args: Any, kwargs: Any) -> Any:
                return list(args), dict(kwargs)

            def _restore_args_dev(self, *_: Any) -> None:
                pass

        self.running = kernel.__name__
        # On a GPU nobody hears of a NaN, and in lanes that are masked away it does not matter.
        with np.errstate(all="ignore"):
            Grid(kernel.rewrite(), kernel.arg_names, (grid, 1, 1))(**arguments)

    def check(self, pointers: Any, mask: Any) -> None:
        """Raise IndexError for an address that is in no buffer."""
        live = pointers[mask]
        is_inside = np.zeros(live.shape, bool)
        for buffer in self.held:
            start = buffer.ctypes.data
            is_inside |= (live >= start) & (live < start + buffer.nbytes)
        if not is_inside.all():
            count = int((~is_inside).sum())
            raise IndexError(f"{self.running}: {count} lanes are outside of all memory")


def rounded(data: Any) -> Any:
    """The bits of the bfloat16 that are nearest to float32 values, ties to even."""
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(data), np.uint16(0x7FC0), nearest)


def widened(bits: Any) -> Any:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def correct_interpreter(cpu: Cpu) -> None:
    """Let Triton's interpreter check addresses, and round and multiply bfloat16 as a GPU does.

    It keeps bfloat16 as the integers of its bits, cuts what it should round, and multiplies bits.
    """
    import triton.language as tl
    from triton.runtime import interpreter as ti

    patch_tensor = ti._patch_lang_tensor

    def patch(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)  # Triton 3.6 with NumPy from 2.4 on
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    def values(handle: Any) -> Any:
        return widened(handle.data) if handle.dtype.scalar == tl.bfloat16 else handle.data

    def checked(pointers: Any, mask: Any) -> Any:
        lanes = np.ascontiguousarray(np.broadcast_to(mask.data, pointers.data.shape)).astype(bool)
        cpu.check(pointers.data, lanes)
        return lanes

    class Builder(ti.InterpreterBuilder):  # type: ignore[misc]
        def _cast(self, value: Any, to: Any, *_: Any) -> Any:
            with np.errstate(all="ignore"):
                if to.scalar == tl.bfloat16:
                    data = rounded(values(value).astype(np.float32))
                else:
                    data = values(value).astype(ti._get_np_dtype(to))
            return ti.TensorHandle(data, to.scalar)

        cast_impl = create_fp_to_fp = create_fp_ext = create_fp_trunc = create_int_cast = _cast
        create_si_to_fp = create_ui_to_fp = create_fp_to_si = create_fp_to_ui = _cast

        def get_bf16(self, value: float) -> Any:
            return ti.TensorHandle(rounded(np.array([value], np.float32)), tl.bfloat16)

        def create_fabs(self, value: Any) -> Any:
            return self.unary_op(value, np.abs)

        def create_maxnumf(self, one: Any, other: Any) -> Any:
            return self.binary_op(one, other, np.fmax)

        def create_minnumf(self, one: Any, other: Any) -> Any:
            return self.binary_op(one, other, np.fmin)

        def create_dot(self, a: Any, b: Any, acc: Any, *_: Any) -> Any:
            kind = acc.data.dtype
            with np.errstate(all="ignore"):
                made = values(a).astype(kind) @ values(b).astype(kind) + acc.data
            return ti.TensorHandle(made, acc.dtype.scalar)

        def create_masked_load(
            self, pointers: Any, mask: Any, other: Any, *_: Any, **__: Any
        ) -> Any:
            dtype = pointers.get_element_ty()
            kind, lanes = ti._get_np_dtype(dtype), checked(pointers, mask)
            rest = np.broadcast_to(0 if other is None else other.data, lanes.shape)
            rest = np.ascontiguousarray(rest.astype(kind))
            return ti.TensorHandle(ti._interpreter.load(pointers.data, lanes, rest, kind), dtype)

        def create_masked_store(
            self, pointers: Any, value: Any, mask: Any, *_: Any, **__: Any
        ) -> Any:
            lanes = checked(pointers, mask)
            kind = ti._get_np_dtype(pointers.get_element_ty())
            data = np.ascontiguousarray(np.broadcast_to(value.data, lanes.shape).astype(kind))
            return ti._interpreter.store(pointers.data, data, lanes)

    ti._patch_lang_tensor = patch
    ti.interpreter_builder.__class__ = Builder


class Gpu:
    """Compiles the kernels and launches them, by Triton, on GPU 0. Needs the cuda-bindings."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self.driver: Any = driver
        self.call("cuInit", 0)
        self.call("cuCtxSetCurrent", self.call("cuDevicePrimaryCtxRetain", 0))
        self.use_without_torch()

    def use_without_torch(self) -> None:
        """Let Triton launch in this context; left alone it would look for PyTorch's."""
        import triton
        from triton.backends.nvidia import driver as nvidia

        call = self.call
        kinds = self.driver.CUdevice_attribute

        class Driver(nvidia.CudaDriver):  # type: ignore[misc]
            def __init__(self) -> None:
                self.utils, self.launcher_cls = nvidia.CudaUtils(), nvidia.CudaLauncher
                self.get_current_device = lambda: 0
                self.set_current_device = lambda _: None
                self.get_current_stream = lambda _: 0
                self.get_device_capability = lambda _=0: tuple(
                    call("cuDeviceGetAttribute", kind, 0)
                    for kind in (
                        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                    )
                )

        triton.runtime.driver.set_active(Driver())

    def call(self, name: str, *arguments: Any) -> Any:
        """The result of a function of the driver."""
        status, *results = getattr(self.driver, name)(*arguments)
        if status:
            raise RuntimeError(f"{name}: {status.name}")
        return results[0] if results else None

    def empty(self, nbytes: int) -> int:
        """The address of so much memory."""
        return int(self.call("cuMemAlloc", max(nbytes, 1)))

    def put(self, array: Any) -> int:
        """The address of a copy of `array`."""
        address = self.empty(array.nbytes)
        self.call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, 0)
        self.call("cuCtxSynchronize")  # the array may be gone when this returns
        return address

    def get(self, address: int, nbytes: int) -> Any:
        """The bytes at an address."""
        made = np.empty(nbytes, np.uint8)
        self.call("cuMemcpyDtoHAsync", made.ctypes.data, address, nbytes, 0)
        self.call("cuCtxSynchronize")
        return made

    def copy(
        self,
        target: Pointer,
        source: Pointer,
        width: int,
        rows: int = 1,
        target_pitch: int = 0,
        source_pitch: int = 0,
    ) -> None:
        """`rows` rows of `width` bytes, each a pitch from the next."""
        for row in range(rows):
            at, come = target.address + row * target_pitch, source.address + row * source_pitch
            self.call("cuMemcpyDtoDAsync", at, come, width, 0)

    def run(self, kernel: Any, grid: int, **arguments: Any) -> None:
        """Launch a kernel."""
        kernel[(grid, 1, 1)](**arguments, enable_fp_fusion=False)


def saved(
    path: Path, inputs: Sequence[tuple[Any, ...]], scalars: dict[str, float]
) -> Iterator[Any]:
    """The arrays that the step was ejected with; what was not saved is drawn at random."""
    held: dict[str, Any] = {}
    if path.exists():
        with np.load(path) as file:
            held = dict(file)
    generator = np.random.default_rng(0)
    for name, dtype, shape in inputs:
        kind = np.dtype(NUMPY.get(dtype, dtype))
        if name in scalars:
            yield np.array(scalars[name], kind)
        elif name in held and held[name].shape != tuple(shape):
            sys.exit(f"{path.name}: {name} has shape {held[name].shape}, the step takes {shape}")
        elif name in held:
            yield np.ascontiguousarray(held[name]).astype(kind, copy=False)
        elif dtype == "bfloat16":
            yield rounded(generator.standard_normal(shape, np.float32))
        elif kind.kind == "f":
            yield np.asarray(generator.standard_normal(shape), kind)
        else:
            yield np.zeros(shape, kind)


def shown(raw: Any, dtype: str, shape: Sequence[int]) -> str:
    """A number as it is, a larger result by its mean and its extremes."""
    values = raw.view(np.dtype(NUMPY.get(dtype, dtype)))
    if dtype == "bfloat16":
        values = widened(values)
    if values.size == 1:
        return f"{values[0]:.9g}"
    if values.size == 0:
        return f"{dtype}{[*shape]}"
    wide = values.astype(np.float64)
    return f"{dtype}{[*shape]}: mean {wide.mean():g}, from {wide.min():g} to {wide.max():g}"


def main(
    step: Callable[..., None],
    inputs: Sequence[tuple[Any, ...]],
    scalars: dict[str, float],
    results: Sequence[tuple[Any, ...]],
    arena_bytes: int,
    table: Sequence[int],
    file: str,
) -> None:
    """Run the step as the command line says, and print what it returns."""
    parser = argparse.ArgumentParser(description="One compiled training step, ejected.")
    parser.add_argument("--interpret", action="store_true", help="on the CPU, by the interpreter")
    parser.add_argument("--steps", type=int, default=1, help="how many steps (1)")
    args = parser.parse_args()
    device: Any
    if args.interpret:
        device = Cpu()
    else:
        try:
            device = Gpu()
        except Exception as error:  # no driver, no GPU, no cuda-bindings
            sys.exit(f"no NVIDIA GPU to run on ({error}); on the CPU: python {file} --interpret")
    given = [device.put(a) for a in saved(Path(file).with_suffix(".npz"), inputs, scalars)]
    arena = device.empty(arena_bytes)
    # A constant is 16 bytes from the next, as kernels align what they read.
    constants = device.put(np.repeat(np.array(table, np.int64), 2))
    made = [device.empty(nbytes) for _, _, _, nbytes in results]
    for _ in range(args.steps):
        step(device, arena, constants, made, given)
        for (name, dtype, shape, nbytes), address in zip(results, made, strict=True):
            print(f"{name} = {shown(device.get(address, nbytes), dtype, shape)}")
