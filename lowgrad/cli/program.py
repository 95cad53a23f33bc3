"""A step out of somebody's script, as it would be called there: nothing is asked of the script."""

from __future__ import annotations

import contextlib
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lowgrad
from lowgrad.compiler import Compiled
from lowgrad.errors import ArgumentError, is_library_file
from lowgrad.ir.lex import suggestion
from lowgrad.transforms import CompiledFunction, intercepted

PACKAGE = str(Path(lowgrad.__file__).parent)


@dataclass(frozen=True)
class Call:
    """The first call of a compiled function: the function and what it was called with."""

    function: CompiledFunction
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def lower(self, **options: Any) -> Compiled:
        """The step compiled for these arguments; options as of `lowgrad.compile`."""
        return self.with_options(**options).lower(*self.args, **self.kwargs)

    def with_options(self, **options: Any) -> CompiledFunction:
        """The same function, compiled anew with these options and otherwise its own."""
        return CompiledFunction(self.function.function, replace(self.function.options, **options))


def compiled_of(program: str, arguments: Sequence[str] = (), **options: Any) -> Compiled:
    """What the step of `program` ("train.py:step") is lowered to; nothing of the step is run."""
    return first_call(program, arguments).lower(**options)


def first_call(program: str, arguments: Sequence[str] = ()) -> Call:
    """The first call of the compiled function that `program` names, or of any.

    program: "train.py", "train.py:step". The script is run as `__main__` with `arguments`, until
    the call; what it prints goes to standard error.
    Raises ArgumentError if there is no such file or the script ends without the call. What the
    script raises is passed on.
    """
    path, name = _parsed(program)
    seen: list[str] = []

    def see(function: CompiledFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(function.name)
        if name in (None, function.name, qualified(function)):
            raise _Found(Call(function, args, kwargs))

    try:
        with intercepted(see), _as_script(path, arguments), contextlib.redirect_stdout(sys.stderr):
            runpy.run_path(str(path), run_name="__main__")
    except _Found as found:
        return found.call
    except SystemExit as end:
        if end.code not in (None, 0):
            # What argparse ends a script with that lacks its arguments.
            fix = f"what follows -- is for {path.name}" if end.code == 2 else None
            raise ArgumentError(f"{path.name} ended with exit code {end.code}", fix=fix) from end
    raise _not_called(path, name, seen)


def qualified(function: CompiledFunction) -> str:
    """ "Trainer.step" of a method, without the functions that it is defined in."""
    name: str = getattr(function.function, "__qualname__", function.name)
    return name.rpartition("<locals>.")[2]


def own_traceback(error: Exception) -> str | None:
    """The traceback of a script's error as Python would print it, without the frames around it.

    None if it was not raised by the script, or by what it called outside of lowgrad.
    """
    told = traceback.TracebackException.from_exception(error, compact=True)
    frames = list(told.stack)
    first = next((i for i, f in enumerate(frames) if not is_library_file(f.filename)), len(frames))
    own = [f for f in frames[first:] if not f.filename.startswith(PACKAGE)]
    # A script that does not parse has no frame.
    if not isinstance(error, SyntaxError) and (not own or own[-1] is not frames[-1]):
        return None
    told.stack[:] = own
    return "".join(told.format())


class _Found(BaseException):
    def __init__(self, call: Call) -> None:
        self.call = call


def _parsed(program: str) -> tuple[Path, str | None]:
    file, _, name = program.partition(".py:")
    path = Path(f"{file}.py" if name else program)
    if not path.is_file():
        raise ArgumentError(f'there is no file "{path}"; a step is named as in train.py:step')
    return path.resolve(), name or None


@contextlib.contextmanager
def _as_script(path: Path, arguments: Sequence[str]) -> Iterator[None]:
    """As `python path arguments` would find things: sys.argv, and its folder first to import."""
    before = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before


def _not_called(path: Path, name: str | None, seen: Sequence[str]) -> ArgumentError:
    if name is None:
        return ArgumentError(
            f"{path.name} ended and called no compiled function",
            fix="decorate its training step with @lowgrad.compile",
        )
    called = list(dict.fromkeys(seen))
    near = suggestion(name, called)
    return ArgumentError(
        f'{path.name} ended and called no compiled function "{name}"{near}; those it called: '
        f"{', '.join(called) or 'none'}",
        fix=None if near else f"decorate {name} with @lowgrad.compile, and call it",
    )
