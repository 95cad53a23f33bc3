"""compute-sanitizer over a few compiled steps: accesses out of bounds, races in shared memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import ROOT, Bench
from benchmarks.gpu_parts.row import Row

TOOLS = ("memcheck", "racecheck")
# Where toolkits put it when it is not on the path.
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/cuda/bin")
FOUND_ERRORS = 99
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")
# What the tool says where it cannot work, whatever the program does.
REFUSALS = ("Device not supported", "Unable to", "is not supported", "Internal Sanitizer Error")


def find() -> str | None:
    """The path of compute-sanitizer."""
    found = shutil.which("compute-sanitizer")
    if found:
        return found
    paths = [Path(place) / "compute-sanitizer" for place in PLACES]
    return next((str(p) for p in paths if os.access(p, os.X_OK) and p.is_file()), None)


def sanitizer(bench: Bench) -> None:
    """A row for each tool; one that is not there, or refuses, is skipped with the reason."""
    for tool in TOOLS:
        bench.row(tool, lambda tool=tool: _checked(bench, tool, find()))


def _checked(bench: Bench, tool: str, program: str | None) -> Row:
    if program is None:
        return Row(tool, note="skipped: compute-sanitizer is not installed")
    inner = [*bench.python, "-m", "benchmarks.gpu_parts.sanitized"]
    # Compiled before, without the tool, so that it watches the steps and not the compiler.
    before = _run(inner, timeout=max(bench.left_s() / 2, 1))
    if before.returncode != 0:
        return Row(tool, error=f"without the tool: {before.stderr.strip()[-600:]}")
    command = [program, "--tool", tool, f"--error-exitcode={FOUND_ERRORS}", *inner]
    done = _run(command, timeout=max(bench.left_s() / 2, 1))
    return row_of(tool, done.returncode, done.stdout + done.stderr)


def _run(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=timeout
    )


def row_of(tool: str, code: int, output: str) -> Row:
    """What a tool's output says."""
    refusal = next((r for r in REFUSALS if r in output), None)
    summary = SUMMARY.findall(output)
    is_whole = "steps done" in output
    if summary and is_whole:
        count = float(summary[-1])
        lines = [line for line in output.splitlines() if line.startswith("=========")]
        note = "" if count == 0 else " | ".join(lines[1:7])[:800]
        return Row(tool, figures=(Figure("errors", count, "", 0),), note=note)
    if refusal is not None:
        line = next(line for line in output.splitlines() if refusal in line)
        return Row(tool, note=f"skipped: {line.strip()[:300]}")
    return Row(tool, error=f"exit code {code}: {output.strip()[-600:]}")
