"""Settings: the one place that reads the environment.

| variable           | meaning                                             | default               |
|--------------------|-----------------------------------------------------|-----------------------|
| LOWGRAD_DUMP       | folder for the IR after each pass and the kernels   | none: no dumps        |
| LOWGRAD_DUMP_LINES | `1` writes the user's line behind each node there   | 0                     |
| LOWGRAD_CACHE      | folder for compiled kernels                         | XDG_CACHE_HOME's      |
| LOWGRAD_THREADS    | threads for NumPy kernels on the CPU                | the library's own     |
| LOWGRAD_TRACEBACK  | `short` hides lowgrad's own frames, `full` doesn't  | short                 |
| LOWGRAD_LOG        | of `record,passes,fusion,memory,cache` some, or all | none                  |
| LOWGRAD_SYNC       | `1` waits for each GPU kernel and names what fails  | 0                     |

To add a setting: a field of `Settings`, a line of `read`, a row above.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lowgrad.errors import ArgumentError, UnsafeCacheWarning

MAX_THREADS = 1024
TRACEBACKS = ("short", "full")
LOG_TOPICS = ("record", "passes", "fusion", "memory", "cache")


@dataclass(frozen=True)
class Settings:
    """What the environment asked for. `threads` is None where the library decides."""

    dump_dir: Path | None
    cache_root: Path
    threads: int | None
    traceback: str
    log: tuple[str, ...] = ()
    sync: bool = False
    dump_lines: bool = False


def read(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`; an empty variable is one that is not set.

    Raises ArgumentError naming the variable if a value is not allowed.
    """
    dump = environ.get("LOWGRAD_DUMP", "")
    return Settings(
        dump_dir=Path(dump).expanduser() if dump else None,
        cache_root=_cache_root(environ),
        threads=_threads(environ.get("LOWGRAD_THREADS", "")),
        traceback=_choice(environ, "LOWGRAD_TRACEBACK", TRACEBACKS, default="short"),
        log=_topics(environ.get("LOWGRAD_LOG", "")),
        dump_lines=_choice(environ, "LOWGRAD_DUMP_LINES", ("0", "1"), default="0") == "1",
        sync=_choice(environ, "LOWGRAD_SYNC", ("0", "1"), default="0") == "1",
    )


_current: Settings | None = None


def settings() -> Settings:
    """The settings of this process, read from the environment on the first call."""
    global _current
    if _current is None:
        _current = read(os.environ)
    return _current


@contextmanager
def changed(**changes: Any) -> Iterator[Settings]:
    """Inside, `settings()` has `changes`: `with config.changed(dump_dir=path): ...`."""
    global _current
    before = settings()
    _current = replace(before, **changes)
    try:
        yield _current
    finally:
        _current = before


def cache_dir() -> Path:
    """The folder for compiled kernels: it exists, is ours, and nobody else can write to it.

    If the configured folder is not so, warns UnsafeCacheWarning once and gives a fresh temporary
    folder, the same for the rest of the process and removed at its end.
    """
    return _private_dir(settings().cache_root)


def _cache_root(environ: Mapping[str, str]) -> Path:
    if chosen := environ.get("LOWGRAD_CACHE", ""):
        return Path(chosen).expanduser().absolute()
    xdg = Path(environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    base = xdg if xdg.is_absolute() else Path("~/.cache").expanduser()
    return base / "lowgrad"


def _threads(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_THREADS):
        raise ArgumentError(
            f'LOWGRAD_THREADS must be a whole number from 1 to {MAX_THREADS}, not "{text}"'
        )
    return int(text)


def _topics(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if names == ("all",):
        return LOG_TOPICS
    for name in names:
        if name not in LOG_TOPICS:
            raise ArgumentError(
                f'LOWGRAD_LOG: there is no topic "{name}"; there are {", ".join(LOG_TOPICS)}',
                fix="LOWGRAD_LOG=all",
            )
    return names


def _choice(
    environ: Mapping[str, str], name: str, allowed: tuple[str, ...], *, default: str
) -> str:
    value = environ.get(name, "").lower() or default
    if value not in allowed:
        raise ArgumentError(f'{name} must be one of {", ".join(allowed)}, not "{value}"')
    return value


@functools.cache
def _private_dir(root: Path) -> Path:
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        fault = _unsafe(root)
    except OSError as error:
        fault = f"cannot be made ({error.strerror})"
    if not fault:
        return root
    warnings.warn(
        UnsafeCacheWarning(
            f"the kernel cache {fault}, so a temporary one is used: {root}",
            fix="point LOWGRAD_CACHE at a folder that only you can write",
        ),
        stacklevel=3,
    )
    return _temporary_dir()


def _unsafe(root: Path) -> str:
    """Why code in `root` could be another user's; "" if it could not."""
    if sys.platform == "win32":  # the profile folder's access list does it there
        return ""
    # The link and its target: either's owner decides what is read.
    for status in (root.lstat(), root.stat()):
        if status.st_uid != os.getuid():
            return f"belongs to user id {status.st_uid}, not to you ({os.getuid()})"
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {mode:04o})"
    if not os.access(root, os.W_OK | os.X_OK):
        return f"cannot be written (mode {mode:04o})"
    return ""


def _temporary_dir() -> Path:
    path = Path(tempfile.mkdtemp(prefix="lowgrad-cache-"))  # mkdtemp makes it 0700
    owner = os.getpid()

    def remove() -> None:
        # A forked child runs our exit handlers too; the folder is still its parent's.
        if os.getpid() == owner:
            shutil.rmtree(path, ignore_errors=True)

    atexit.register(remove)
    return path
