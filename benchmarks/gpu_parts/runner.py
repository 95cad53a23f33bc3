"""Runs parts, each in a process of its own with a time limit: what one does harms no other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.bench import ROOT
from benchmarks.gpu_parts.row import NOT_REACHED

# Seconds that a part has less than its process: to write its last row and to end.
MARGIN_S = 15
TAIL = 1500  # characters of a dead process's errors that are kept


@dataclass(frozen=True)
class Outcome:
    """How one part went. status: "done", "failed" or "timeout". rows: as `row.to_json` made them.

    error: the end of the process's errors, "" if it is done.
    """

    name: str
    status: str
    seconds: float
    error: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    date: str = ""


def run(
    name: str,
    rows: Path,
    limit_s: float,
    *,
    python: Sequence[str] = (sys.executable,),
    arguments: Sequence[str] = (),
) -> Outcome:
    """Run one part for at most `limit_s` seconds; its rows are read from the file `rows`."""
    rows.unlink(missing_ok=True)
    start = time.monotonic()
    inner = max(limit_s - MARGIN_S, limit_s / 2)
    command = [*python, "-m", "benchmarks.gpu_parts.child", name, str(rows), f"{inner:.0f}"]
    with rows.with_suffix(".err").open("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [*command, *arguments],
            stderr=errors,
            cwd=ROOT,
            start_new_session=True,  # so that its own children end with it
        )
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        errors.seek(0)
        said = errors.read()
    rows.with_suffix(".err").unlink(missing_ok=True)
    seconds = time.monotonic() - start
    status, error = "done", ""
    if code is None:
        status, error = "timeout", f"stopped after {limit_s:.0f} s"
    elif code != 0:
        status, error = "failed", f"{_exit(code)}\n{said.strip()[-TAIL:]}"
    found = read(rows)
    if status == "done" and any(row["error"].startswith(NOT_REACHED) for row in found):
        status, error = "timeout", "there was no time for some rows"
    return Outcome(name, status, seconds, error, found, now())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _exit(code: int) -> str:
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def read(rows: Path) -> list[dict[str, Any]]:
    """The rows in a file; a last line that was cut off is left out."""
    found = []
    if rows.exists():
        for line in rows.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def now() -> str:
    """The time in UTC, to the minute."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
