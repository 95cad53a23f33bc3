"""Triton source text -> the `@triton.jit` function in it.

The text becomes a real file of the cache, since Triton reads the source of what it decorates, and
tracebacks, debuggers and people can read it too.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import linecache
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from lowgrad import config
from lowgrad.errors import ArgumentError, MissingDependencyError


def load(source: str, name: str) -> Any:
    """The `@triton.jit` function called `name` that `source` defines.

    source: a module's text, which imports triton itself. The same text gives the same object.
    Raises MissingDependencyError without Triton, ArgumentError if there is no such function.
    """
    require_triton()
    kernel = getattr(_module(source), name, None)
    if not hasattr(kernel, "arg_names"):
        raise ArgumentError(f"the source defines no @triton.jit function called {name!r}")
    return kernel


def require_triton() -> ModuleType:
    """The `triton` module. Raises MissingDependencyError if it is not installed."""
    try:
        import triton
    except ImportError as error:
        raise MissingDependencyError(
            f"kernels need the triton package, which cannot be imported ({error}); "
            'device "cpu" works without it',
            fix="pip install triton",
        ) from error
    return triton


def source_path(source: str) -> Path:
    """Where `load` keeps this text."""
    return config.cache_dir() / f"{_stem(source)}.py"


def _stem(source: str) -> str:
    return f"lg_{hashlib.sha256(source.encode()).hexdigest()[:16]}"


@functools.cache
def _module(source: str) -> ModuleType:
    path = source_path(source)
    _ensure_file(path, source.encode())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py suffix always has a loader"
    module = importlib.util.module_from_spec(spec)
    # The interpreter reads the source again later; without a time linecache does not ask the disk.
    linecache.cache[str(path)] = (len(source), None, source.splitlines(True), str(path))
    # Not `spec.loader.exec_module`: that would run whatever bytecode lies in __pycache__, while
    # this runs the text that was asked for, whoever may have touched the file since.
    exec(compile(source, str(path), "exec"), module.__dict__)
    sys.modules[path.stem] = module
    return module


def _ensure_file(path: Path, content: bytes) -> None:
    """Make `path` hold `content`, in one step, so that no other process sees half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _read(path) == content:  # all of it is compared: stronger than the digest, and as quick
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
