"""The others, in the same process: PyTorch eager, torch.compile, Liger-Kernel; all optional.

torch.compile gets `max-autotune` within a time limit; past it the default mode is measured, and the
row says so.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

KERNELS = ("max-autotune-no-cudagraphs", "default")  # graphs copy every input: unfair to a kernel
STEPS = ("max-autotune", "default")


class TooLong(BaseException):
    """A limit ran out. No Exception, so that what swallows those does not swallow this."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Inside, TooLong is raised once this time is over. In the main thread only."""

    def stop(*_: Any) -> None:
        raise TooLong(f"{seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Torch:
    """PyTorch on one device.

    device: "cuda"; "cpu" where the whole script is tried without a GPU. backend: torch.compile's.
    Raises ImportError or RuntimeError with the reason if it cannot be used.
    """

    def __init__(self, device: str = "cuda", backend: str = "inductor") -> None:
        self.top = import_module("torch")
        self.device, self.backend = device, backend
        if device == "cuda" and not self.top.cuda.is_available():
            raise RuntimeError(f"PyTorch {self.top.__version__} sees no GPU")

    def wait(self) -> None:
        """Until all of its work is done."""
        if self.device == "cuda":
            self.top.cuda.synchronize()

    def compiled(
        self,
        function: Callable[..., Any],
        tried: Callable[[Callable[..., Any]], Any],
        *,
        modes: tuple[str, ...] = KERNELS,
        limit_s: float,
    ) -> tuple[Callable[..., Any], str]:
        """The function compiled, in the first mode that manages a call in time, and a note.

        tried: makes the call that compiles, from the compiled function; forward and backward.
        Raises what the last mode raised; RuntimeError if that took too long as well.
        """
        notes: list[str] = []
        failure: BaseException = RuntimeError("no mode was tried")
        for number, mode in enumerate(modes):
            last = number == len(modes) - 1
            start = time.perf_counter()
            self.top._dynamo.reset()
            # Garbage of lowgrad's that dies while a graph is captured would spoil the capture.
            gc.collect()
            try:
                with limited(limit_s):
                    made = self._in_mode(function, mode)
                    for _ in range(3):  # graphs are recorded at the second call
                        tried(made)
                    self.wait()
                return made, "; ".join([*notes, f"{mode}, {time.perf_counter() - start:.0f} s"])
            except TooLong:
                notes.append(f"{mode} took over {limit_s:.0f} s")
                failure = RuntimeError("; ".join(notes))
            except Exception as error:
                if is_out_of_memory(error) and last:
                    raise
                notes.append(f"{mode}: {first_line(error)}")
                failure = RuntimeError("; ".join(notes))
        raise failure

    def _in_mode(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        if self.backend != "inductor":
            return self.top.compile(function, backend=self.backend, dynamic=False)
        return self.top.compile(function, mode=mode, dynamic=False)

    def free(self) -> None:
        """Give back what it keeps of the GPU's memory."""
        if self.device == "cuda":
            self.top.cuda.empty_cache()

    def allocated(self) -> int | None:
        """Bytes that its tensors take now; None where it does not count."""
        return self.top.cuda.memory_allocated() if self.device == "cuda" else None

    def peak(self) -> int:
        """The most that they took since `reset_peak`."""
        return int(self.top.cuda.max_memory_allocated())

    def reset_peak(self) -> None:
        """Count the most from now on."""
        self.top.cuda.reset_peak_memory_stats()


def liger(name: str) -> Callable[..., Any] | None:
    """A function of Liger-Kernel's; None if it or the package is not there."""
    try:
        functions = import_module("liger_kernel.transformers.functional")
    except Exception:  # absent, or unable to start here
        return None
    return getattr(functions, name, None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether either library had no memory left."""
    names = {c.__name__ for c in type(error).__mro__}
    return (
        bool(names & {"OutOfMemory", "OutOfMemoryError"}) or "out of memory" in str(error).lower()
    )


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text, for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
