"""What every part is handed: the clock, the ceilings, PyTorch if there is one, where rows go."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import lowgrad
from benchmarks.gpu_parts.clock import Clock
from benchmarks.gpu_parts.rivals import Torch, first_line
from benchmarks.gpu_parts.row import NOT_REACHED, Row
from benchmarks.programs import library
from lowgrad.codegen.gpus import spec_of
from lowgrad.errors import DeviceFault
from lowgrad.runtime.cuda.driver import call
from lowgrad.runtime.cuda.memory import Allocation
from lowgrad.runtime.cuda.streams import current_gpu, current_stream

GIB = 1 << 30
ROOT = Path(__file__).resolve().parent.parent.parent


class Bench:
    """One part's surroundings.

    is_tiny: sizes that Triton's interpreter can bear, to see that everything runs; no targets.
    limit_s: the part's time; rows that do not begin in it are told as not reached.
    torch: a Torch, or the reason why there is none. python: the command of a fresh interpreter.
    """

    def __init__(
        self,
        emit: Callable[[Row], None],
        *,
        limit_s: float,
        is_tiny: bool = False,
        torch: Torch | str | None = None,
        clock: Clock | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        self._emit = emit
        self.is_tiny = is_tiny
        self.end = time.monotonic() + limit_s
        self.clock = clock or Clock()
        self.device = "cuda"
        self.python = list(python)
        self.own = library("lowgrad")
        made = _found() if torch is None else torch
        self.torch = made if isinstance(made, Torch) else None
        self.no_torch = "" if isinstance(made, Torch) else made
        self.theirs = library("torch") if self.torch is not None else None

    # --- Rows ---

    def row(self, name: str, measure: Callable[[], Row]) -> None:
        """Measure one row and write it down; what fails is written down as that.

        Raises DeviceFault once it is written: after it this process cannot use the GPU.
        """
        if self.left_s() < 5:
            self._emit(Row(name, error=f"{NOT_REACHED}: the part's time was over"))
            return
        try:
            self._emit(measure())
        except DeviceFault as error:
            self._emit(Row(name, error=first_line(error)))
            raise
        except Exception as error:
            self._emit(Row(name, error=first_line(error)))
        self.free()

    def left_s(self) -> float:
        """Seconds of this part that are left."""
        return self.end - time.monotonic()

    def free(self) -> None:
        """Give back the memory that either library keeps for later."""
        gc.collect()
        lowgrad.cuda.empty_cache()
        if self.torch is not None:
            self.torch.free()

    # --- Ceilings, measured here ---

    @cached_property
    def copy_rate(self) -> float:
        """Bytes a second, read and written together, of the fastest copy of 1 GiB."""
        nbytes = 1 << 16 if self.is_tiny else GIB
        gpu = current_gpu()
        source, target = Allocation(gpu, nbytes), Allocation(gpu, nbytes)
        stream = current_stream().handle
        calls: dict[str, Callable[[], Any]] = {
            "driver": lambda: call(
                "cuMemcpyDtoDAsync", target.pointer, source.pointer, nbytes, stream
            )
        }
        if self.torch is not None:
            top = self.torch.top
            x = top.empty(nbytes // 4, dtype=top.float32, device=self.torch.device)
            y = top.empty_like(x)
            calls["torch"] = lambda: y.copy_(x)
        times = self.clock.kernels(calls)
        return 2 * nbytes / (min(times.values()) * 1e-3)

    @cached_property
    def product_rate(self) -> float:
        """FLOP a second of cuBLAS on bfloat16 8192^3; without PyTorch what the model says."""
        if self.torch is None:
            return self.spec_flops
        n = 32 if self.is_tiny else 8192
        top, device = self.torch.top, self.torch.device
        a, b = (top.randn(n, n, dtype=top.bfloat16, device=device) for _ in range(2))
        ms = self.clock.kernels({"cublas": lambda: top.mm(a, b)})["cublas"]
        return 2 * n**3 / (ms * 1e-3)

    @property
    def spec_flops(self) -> float:
        """What the model of this GPU says of products in 16 bits."""
        spec = spec_of(current_gpu().target)
        assert spec is not None, "the device is a GPU of NVIDIA's"
        return spec.half_flops

    # --- Tensors: the same elements for all ---

    def normal(self, *shape: int, dtype: str = "bfloat16", scale: float = 1.0) -> Any:
        """Normally distributed: random, since products of zeros take less power and less time."""
        if self.torch is None:
            return (lowgrad.randn(shape, device=self.device) * scale).to(getattr(lowgrad, dtype))
        top = self.torch.top
        made = top.empty(shape, dtype=top.float32, device=self.torch.device)
        # In place: a weight of 2 GB in float32 needs no second copy.
        made = made.normal_().mul_(scale)
        return made.to(getattr(top, dtype))

    def classes(self, count: int, *shape: int) -> Any:
        """A class for each."""
        if self.torch is None:
            return lowgrad.randint(0, count, shape).to(self.device)
        return self.torch.top.randint(0, count, shape, device=self.torch.device)

    def ours(self, x: Any) -> Any:
        """A tensor of PyTorch's as lowgrad's: the same memory on a GPU, a copy from the CPU."""
        if self.torch is None or isinstance(x, lowgrad.Tensor):
            return x
        if x.is_cuda:
            return lowgrad.from_dlpack(x.detach())
        return lowgrad.from_numpy(_array(self.torch.top, x)).to(self.device)

    def error(self, ours: Any, theirs: Any) -> float:
        """The norm of the difference over that of PyTorch's result; infinite for other shapes."""
        assert self.torch is not None, "there is something to compare with"
        top = self.torch.top
        ours, theirs = ours.detach(), theirs.detach()
        if tuple(ours.shape) != tuple(theirs.shape):
            return float("inf")
        if theirs.is_cuda:
            got = top.from_dlpack(ours)
        else:
            got = top.from_numpy(np.array(ours.float().cpu().numpy()))
        # A piece at a time: in float32 a large gradient would take too much.
        got, want = got.reshape(-1), theirs.reshape(-1)
        off, norm = 0.0, 0.0
        for start in range(0, got.numel(), 1 << 26):
            a, b = (t[start : start + (1 << 26)].float() for t in (got, want))
            off += float((a - b).square().sum())
            norm += float(b.square().sum())
        found = (off / max(norm, 1e-30)) ** 0.5
        return found if found == found else float("inf")  # NaN is no agreement


def _found() -> Torch | str:
    try:
        return Torch()
    except Exception as error:
        return first_line(error)


def _array(top: Any, x: Any) -> Any:
    if x.dtype != top.bfloat16:
        return x.detach().numpy()
    return x.detach().view(top.int16).numpy().view(lowgrad.bfloat16.numpy)
