"""Typed errors, one class to one kind of mistake, and the search for the user's line.

    LowgradError
    ├── ArgumentError        (ValueError)    an argument has a value that is not allowed
    ├── ShapeError           (ValueError)    sizes do not fit together
    ├── DTypeError           (TypeError)     element types do not fit together
    ├── DeviceError          (RuntimeError)  a device is absent, or tensors live on different ones
    ├── LaunchError          (RuntimeError)  a kernel could not be started on a GPU
    ├── DeviceFault          (RuntimeError)  a kernel failed while it ran, and its GPU with it
    ├── IndexOutOfRange      (IndexError)    an index or a dim is outside its range
    ├── AliasError           (RuntimeError)  a write in place would change what others see
    ├── AutogradError        (RuntimeError)  a derivative was asked for that does not exist
    ├── CompileError         (RuntimeError)  a step cannot be recorded or lowered
    ├── VerifyError          (RuntimeError)  broken IR: a bug of lowgrad, or of a pass or op
    ├── KernelCheckError     (RuntimeError)  a generated kernel is out of bounds, racy or wrong
    ├── NaNError             (FloatingPointError) a watched step made a NaN
    ├── IRParseError         (ValueError)    IR text that does not parse
    ├── CheckpointError      (RuntimeError)  a state dict does not fit, or its file is damaged
    ├── OutOfMemory          (MemoryError)   a step needs more memory than there is
    ├── MissingDependencyError (ImportError) an optional package is not installed
    ├── WorkerError          (RuntimeError)  a data worker process failed or died
    ├── CompileWarning       (UserWarning)   it works, but recompiles or runs slower than it could
    └── UnsafeCacheWarning   (UserWarning)   the kernel cache is not private, so it is not used

Catch `LowgradError` for all of them, or the builtin that a PyTorch program would catch.
`str(error)` is at most 12 lines of at most 100 columns: what is wrong, the operands, the user's
line, one fix.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import textwrap
from collections.abc import Sequence
from types import CodeType, FrameType
from typing import NamedTuple

__all__ = [
    "AliasError",
    "ArgumentError",
    "AutogradError",
    "CheckpointError",
    "CompileError",
    "CompileWarning",
    "DTypeError",
    "DeviceError",
    "DeviceFault",
    "IRParseError",
    "IndexOutOfRange",
    "KernelCheckError",
    "LaunchError",
    "LowgradError",
    "MissingDependencyError",
    "NaNError",
    "OutOfMemory",
    "ShapeError",
    "UnsafeCacheWarning",
    "VerifyError",
    "WorkerError",
]

MAX_COLUMNS = 100
MAX_LINES = 12


class Location(NamedTuple):
    """A line of the user's program."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}, in {self.function}"


# --- The user's line ---------------------------------------------------------------------------

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = tuple(os.path.join(_STDLIB, d) for d in ("site-packages", "dist-packages"))

# Programs shipped inside the package that are read as a user's own code.
_SHIPPED_PROGRAMS = tuple(_PACKAGE + d + os.sep for d in ("demo", "examples"))

# By file name, because one dict lookup a frame keeps `user_frame` under a microsecond.
_IS_INTERNAL: dict[str, bool] = {}


def user_frame() -> tuple[str, int, str] | None:
    """(file name as Python has it, line, function) of the innermost frame of the user's code.

    Frames of lowgrad and of the standard library are passed over. None if there is no other.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        internal = _IS_INTERNAL.get(code.co_filename)
        if internal is None:
            internal = _remember(code.co_filename)
        if not internal:
            return code.co_filename, frame.f_lineno, _function_name(code, frame)
        frame = frame.f_back
    return None


def is_library_file(filename: str) -> bool:
    """Whether the file belongs to lowgrad, the standard library or an installed package."""
    if _IS_INTERNAL.get(filename) or _is_internal(filename) or filename == "":
        return True
    return filename.startswith((_STDLIB, *_INSTALLED)) or "site-packages" in filename


def user_location(skip_internal: bool = True) -> Location | None:
    """`user_frame` as a Location, its file relative to the working directory if below it.

    With `skip_internal=False` it is the caller's own line, even inside lowgrad.
    """
    if skip_internal:
        found = user_frame()
    else:
        frame = sys._getframe(1)
        found = (frame.f_code.co_filename, frame.f_lineno, _function_name(frame.f_code, frame))
    if found is None:
        return None
    file, line, function = found
    return Location(short_path(file), line, function)


def short_path(file: str) -> str:
    """`file` relative to the working directory if below it, else its name and parent folder."""
    if file.startswith("<"):
        return file  # "<stdin>" and the like
    if not file.isascii():  # where names are no UTF-8 some letters cannot be written down
        file = file.encode("utf-8", "backslashreplace").decode()
    path = os.path.abspath(file)
    try:
        below = path.startswith(os.path.join(os.getcwd(), ""))
    except FileNotFoundError:  # the working directory was deleted
        below = False
    if below:
        return os.path.relpath(path)
    return os.path.join(os.path.basename(os.path.dirname(path)), os.path.basename(path))


def pass_over(filename: str) -> None:
    """Take the file for one of lowgrad's own, in which no line is the user's."""
    _IS_INTERNAL[filename] = True


def _remember(filename: str) -> bool:
    internal = _is_internal(filename)
    _IS_INTERNAL[filename] = internal
    return internal


def _is_internal(filename: str) -> bool:
    if filename.startswith("<frozen "):
        return True  # the import system
    if filename.startswith(_PACKAGE):
        return not filename.startswith(_SHIPPED_PROGRAMS)
    return filename.startswith(_STDLIB) and not filename.startswith(_INSTALLED)


if sys.version_info >= (3, 11):

    def _function_name(code: CodeType, frame: FrameType) -> str:
        """`Mlp.forward`, without the functions it is defined in."""
        return code.co_qualname.rpartition("<locals>.")[2]

else:  # pragma: no cover - one of the two

    def _function_name(code: CodeType, frame: FrameType) -> str:
        """`Mlp.forward`: before 3.11 code objects do not know their class, so ask `self`."""
        if code.co_argcount == 0 or code.co_varnames[0] != "self":
            return code.co_name
        for cls in type(frame.f_locals.get("self")).__mro__:
            if code.co_name in vars(cls):
                return f"{cls.__name__}.{code.co_name}"
        return code.co_name


# --- The errors --------------------------------------------------------------------------------


class LowgradError(Exception):
    """The root: catch it to catch everything that lowgrad raises on purpose.

    message: one sentence of what is wrong, with the numbers, starting with the operation.
    operands: one line each, in the user's names, shapes and dtypes.
    at: the user's line; found on the stack if not given.  Give "" to say that there is none.
    fix: at most one thing to do, only if it works for certain.

    >>> print(LowgradError("add: 2 and 3", operands=["x  f32[2]"], at="a.py:1, in f", fix="pad x"))
    add: 2 and 3
      x  f32[2]
      at:  a.py:1, in f
      fix: pad x
    """

    def __init__(
        self,
        message: str,
        *,
        operands: Sequence[str] = (),
        at: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operands = tuple(operands)
        self.at = _where() if at is None else at
        self.fix = fix

    def __str__(self) -> str:
        head = _wrapped(self._headline(), first=len(type(self).__name__) + 2, indent="  ")
        tail = _labelled("at:  ", self.at) + _labelled("fix: ", self.fix)
        room = max(MAX_LINES - len(head) - len(tail), 1)
        return "\n".join(head + _operand_lines(self.operands, room) + tail)

    def _headline(self) -> str:
        return self.message


class ArgumentError(LowgradError, ValueError):
    """An argument has a value that is not allowed, whatever the tensors are.

    Example: `F.dropout(x, p=1.5)`, `DataLoader(data, batch_size=0)`.
    Fix: the message names the argument, what it may be and what it was.
    """


class ShapeError(LowgradError, ValueError):
    """The sizes of the operands do not fit together.

    Example: `lowgrad.ones(64, 512) @ lowgrad.ones(256, 128)`: 512 and 256 should be equal.
    Fix: compare the shapes listed below the message; a missing `.T`, `.reshape` or `unsqueeze` is
    the usual cause. Sizes broadcast only where one of them is 1 or absent, counting from the right.
    """


class DTypeError(LowgradError, TypeError):
    """The element types of the operands do not fit together, or the op has no such type.

    Example: `float16 @ float32`: matmul does not mix float types, since either choice of the
    result would surprise somebody.
    Fix: convert one of them where it is made, `x.to(lowgrad.float32)`.
    """


class DeviceError(LowgradError, RuntimeError):
    """A device is not there, or the operands of one op live on different devices.

    Example: `model.to("cuda")` on a machine without a GPU; `x_cpu + w_cuda`.
    Fix: `lowgrad env` lists the devices; move the data with `x.to(w.device)`. lowgrad never copies
    between devices by itself: a hidden copy a step is the slowdown nobody finds.
    """


class LaunchError(LowgradError, RuntimeError):
    """A kernel could not be started on the GPU. Nothing ran, and the state is as before the step.

    Example: a kernel compiled for sm_90 asks for 200 KiB of shared memory on a GPU with 100.
    Fix: the message names the kernel and what it asked for; compile for the GPU that is there.
    """


class DeviceFault(LowgradError, RuntimeError):
    """A kernel failed while it ran: an illegal address, an assertion, a time limit.

    The driver gives the GPU's context up with it: every later call fails, and what was on the GPU
    is lost. Example: memory that another library freed is read through `from_dlpack`.
    Fix: start the process again, with LOWGRAD_SYNC=1 to name the kernel that fails.
    """


class IndexOutOfRange(LowgradError, IndexError):
    """An index, a dim or a class number is outside its range.

    Example: `x[5]` on 5 rows; `x.sum(dim=2)` on a matrix; `F.cross_entropy` with target 10 of 10.
    Fix: indices run from -size to size - 1, dims from -ndim to ndim - 1.
    """


class NaNError(LowgradError, FloatingPointError):
    """A step that is watched, `lowgrad.compile(nan="raise")`, made a NaN.

    Example: `(x / x.sum()).log()` where the sum is 0; a loss in float16 without a scaler.
    Fix: the message names the op, the line and the element; keep its operands in range.
    """


class AliasError(LowgradError, RuntimeError):
    """A write in place would change memory that something else still reads, or that repeats.

    Example: `x.expand(8, 3).add_(1)`: the eight rows are one row in memory.
    Fix: copy first, `x.expand(8, 3).clone().add_(1)`.
    """


class AutogradError(LowgradError, RuntimeError):
    """A derivative was asked for that does not exist.

    Example: `.backward()` on a tensor that needs no gradient, or on one that is not a scalar, or a
    second time over a tape that was freed.
    Fix: set `requires_grad=True` on the leaves, reduce the loss with `.mean()`, or pass
    `retain_graph=True` to the first call.
    """


class CompileError(LowgradError, RuntimeError):
    """A step cannot be recorded once and replayed, or cannot be lowered for the target.

    Example: `if loss > 10:` inside `@lowgrad.compile`: the branch depends on a tensor's value,
    which is not known while recording.
    Fix: compute both sides and choose, `lowgrad.where(loss > 10, a, b)`, or move the test out of
    the compiled function.
    """


class VerifyError(LowgradError, RuntimeError):
    """The IR is broken: a value used before it is made, a type that its op does not give.

    This is a bug of lowgrad, or of a pass or op that was added, never of a training program.
    Example: a pass drops a node whose output another node still reads.
    Fix: the message names the pass and the node; `LOWGRAD_DUMP=dir` writes the graph before and
    after each pass, and `lowgrad.ir.parse` reads it back.
    """


class KernelCheckError(LowgradError, RuntimeError):
    """A generated kernel failed its check: out of bounds, a race, or not the reference's values.

    Example: a store without its mask writes past the last column of a 300-wide row.
    Fix: this is a bug of code generation; the message names the kernel's file, which runs alone.
    """


class IRParseError(LowgradError, ValueError):
    """IR text that does not parse.

    line, column: from 1.  source: the faulty line.  width: columns to underline.  file: its name.

    Example: `%5 = mul2 %3, %4 : f32[8,4]`: there is no op `mul2`.
    Fix: the carets stand below the faulty word; `str(graph)` shows what text looks like.

    >>> print(IRParseError("no op mul2", line=14, column=6, source="%5 = mul2 %3", width=4, at=""))
    <ir>:14:6: no op mul2
        %5 = mul2 %3
             ^^^^
    """

    def __init__(
        self,
        message: str,
        *,
        line: int = 1,
        column: int = 1,
        source: str = "",
        width: int = 1,
        file: str = "<ir>",
        operands: Sequence[str] = (),
        at: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(
            message, operands=(*_caret(source, column, width), *operands), at=at, fix=fix
        )
        self.line = line
        self.column = column
        self.file = file

    def _headline(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class CheckpointError(LowgradError, RuntimeError):
    """A state dict does not fit the model or optimizer, or a checkpoint file is damaged.

    Nothing was loaded: it is all or nothing. Not a KeyError, whose `str` is a quoted word.
    Example: `model.load_state_dict(state)` after a layer was renamed.
    Fix: compare the missing and the unexpected names; `strict=False` loads what fits.
    """


class OutOfMemory(LowgradError, MemoryError):
    """A step needs more memory than there is, known from the plan before anything has run.

    Parameters and optimizer are as before this step.
    Example: `@lowgrad.compile(memory="1GiB")` on a step whose smallest plan takes 1.2 GiB.
    Fix: the message lists the largest buffers with their lines; shrink the batch, or allow more.
    """


class MissingDependencyError(LowgradError, ImportError):
    """An optional package is not installed.

    Example: `step.report("step.html")` without `jinja2`.
    Fix: install the extra that the message names, `pip install "lowgrad[report]"`.
    """


class WorkerError(LowgradError, RuntimeError):
    """A process that loads data died, or gave no batch in time.

    An error that its data set raises keeps its own type; it is a WorkerError only if it cannot be
    passed between processes.
    Example: `DataLoader(data, num_workers=4)` where four workers need more memory than there is.
    Fix: `num_workers=0` runs the same code in the main process, where a debugger works. A worker
    killed by signal 9 was most often out of memory.
    """


class CompileWarning(LowgradError, UserWarning):
    """A compiled step gives the right result, but at a cost that was likely not meant.

    Example: a learning rate passed as a Python float changes each call, and each call compiles.
    Fix: pass what changes as a tensor, `lowgrad.tensor(scale)`.
    """


class UnsafeCacheWarning(LowgradError, UserWarning):
    """The kernel cache could be written by another user, so a private temporary one is used.

    Cached kernels are code that is run: whoever can write them can run programs as you.
    Example: `LOWGRAD_CACHE` names a folder that everybody may write.
    Fix: `chmod go-w` on the folder, or point `LOWGRAD_CACHE` at one of your own.
    """


# --- Layout ------------------------------------------------------------------------------------


def _where() -> str:
    location = user_location()
    return "" if location is None else str(location)


def _wrapped(text: str, first: int, indent: str) -> list[str]:
    """`text` in lines of MAX_COLUMNS; the first is `first` columns shorter, others are indented."""
    lines = textwrap.wrap(
        text,
        MAX_COLUMNS,
        initial_indent=" " * first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        max_lines=MAX_LINES // 2,
        placeholder=" ...",
    )
    return [line[first:] if i == 0 else line for i, line in enumerate(lines)] or [""]


def _labelled(label: str, text: str | None) -> list[str]:
    if not text:
        return []
    lines = _wrapped(text, first=len(label) + 2, indent=" " * (len(label) + 2))[:3]
    return [f"  {label}{lines[0]}", *lines[1:]]


def _operand_lines(operands: Sequence[str], room: int) -> list[str]:
    """At most `room` lines, one an operand, cut at MAX_COLUMNS; the last says how many are left."""
    if len(operands) > room:
        left = len(operands) - room + 1
        operands = [*operands[: room - 1], f"... and {left} more"]
    return [_cut("  " + line) for line in operands]


def _cut(line: str) -> str:
    return line if len(line) <= MAX_COLUMNS else line[: MAX_COLUMNS - 4] + " ..."


def _caret(source: str, column: int, width: int) -> list[str]:
    """The faulty line and carets below it, further in than operands; [] without a line."""
    if not source:
        return []
    shown = source.rstrip("\n").replace("\t", " ")
    return ["  " + shown, "  " + " " * (column - 1) + "^" * max(width, 1)]
