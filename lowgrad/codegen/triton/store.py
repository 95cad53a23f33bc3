"""Compiled kernels on disk: each in one file, named by everything that it was made from.

A file is believed only if its digest and its whole key are right, so that a truncated or foreign
file is compiled again and replaced. Files are written under another name and moved into place:
several processes may use one folder. Nothing in them is code that Python would run.

What is missing is compiled by several processes (`python -m lowgrad.codegen.triton.worker`), since
Triton's passes do not bear several threads; they hand their work over through these files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from lowgrad import config
from lowgrad.codegen.triton.compile import Binary, Encoding, Job, compile_job
from lowgrad.codegen.triton.load import require_triton
from lowgrad.errors import CompileError

FORMAT = 2
# So many kernels are compiled sooner here than a process starts.
FEW = 2
MOST_WORKERS = 16
HEAD = (
    *("name", "target", "num_warps", "num_stages", "enable_fp_fusion"),
    *("shared_bytes", "scratch_bytes", "descriptors"),
)


def compiled(jobs: Sequence[Job]) -> list[Binary]:
    """The binaries of `jobs`: from the folder, and compiled if they are not there.

    Raises CompileError naming the kernel that does not compile, with the compiler's reason.
    """
    found = {job_key(job): read(job) for job in jobs}
    missing = {job_key(job): job for job in jobs if found[job_key(job)] is None}
    if len(missing) > FEW and workers() > 1:
        _compile_in_processes(list(missing.values()))
        found |= {key: read(job) for key, job in missing.items()}
    for key, job in missing.items():
        if found[key] is None:
            found[key] = made = compile_job(job)
            write(job, made)
    binaries = [found[job_key(job)] for job in jobs]
    return [binary for binary in binaries if binary is not None]


def workers() -> int:
    """How many processes compile at once: LOWGRAD_THREADS, or one for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(config.settings().threads or cores or 1, MOST_WORKERS)


def job_key(job: Job) -> str:
    """A digest of everything that the binary depends on."""
    return hashlib.sha256(_described(job).encode()).hexdigest()


def _described(job: Job) -> str:
    made_from = {
        **asdict(job),
        "signature": list(job.signature.items()),
        "constants": list(job.constants.items()),
        "divisible": sorted(job.divisible),
        "triton": _triton_version(),
        "format": FORMAT,
    }
    return json.dumps(made_from, sort_keys=True)


@cache
def _triton_version() -> str:
    """The version, and the size of the compiler itself: local builds share a version."""
    triton = require_triton()
    library = Path(str(triton.__file__)).parent / "_C" / "libtriton.so"
    return f"{triton.__version__} {library.stat().st_size if library.exists() else 0}"


def path_of(job: Job) -> Path:
    """Where the binary of `job` is kept."""
    return config.cache_dir() / "binaries" / f"{job_key(job)}.bin"


def read(job: Job) -> Binary | None:
    """The binary as it was written, or None if it is not there, damaged or another's."""
    try:
        content = path_of(job).read_bytes()
        head, _, payload = content.partition(b"\n")
        facts = json.loads(head)
        is_ours = facts["made_from"] == _described(job)
        if not is_ours or facts["sha256"] != hashlib.sha256(payload).hexdigest():
            return None
        size = facts["binary_bytes"]
        fields = {name: facts[name] for name in HEAD}
        fields["descriptors"] = tuple(
            Encoding(tuple(block), *others) for block, *others in fields["descriptors"]
        )
        return Binary(asm=payload[size:].decode(), binary=payload[:size], **fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(job: Job, binary: Binary) -> None:
    """Keep the binary of `job`. A folder that cannot be written is no error: it is made again."""
    payload = binary.binary + binary.asm.encode()
    facts: dict[str, Any] = {name: getattr(binary, name) for name in HEAD}
    facts["made_from"] = _described(job)
    facts["binary_bytes"] = len(binary.binary)
    facts["sha256"] = hashlib.sha256(payload).hexdigest()
    path = path_of(job)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps(facts, sort_keys=True).encode() + b"\n" + payload)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return


# --- Other processes ----------------------------------------------------------------------------


def to_line(job: Job) -> str:
    """A job as one line of text, for a worker."""
    return json.dumps(asdict(job), sort_keys=False)


def from_line(line: str) -> Job:
    """The job of `to_line`."""
    fields = json.loads(line)
    return Job(**{**fields, "divisible": tuple(fields["divisible"])})


def _compile_in_processes(jobs: list[Job]) -> None:
    """Let workers compile `jobs` into the folder. Raises CompileError for what none could."""
    count = min(workers(), len(jobs))
    # The longest first, each to the next worker: about as much for all.
    ordered = sorted(jobs, key=lambda job: -len(job.source))
    environment = {**os.environ, "LOWGRAD_CACHE": str(config.cache_dir())}
    command = [sys.executable, "-m", "lowgrad.codegen.triton.worker"]

    def work(part: list[Job]) -> str:
        """What went wrong, or nothing."""
        done = subprocess.run(
            command,
            input="".join(f"{to_line(job)}\n" for job in part),
            capture_output=True,
            text=True,
            env=environment,
            cwd=_importable_from(),
            check=False,
        )
        noise = done.stderr.strip() or f"a compiling process ended with status {done.returncode}"
        return noise.splitlines()[-1] if done.returncode else ""

    with ThreadPoolExecutor(count) as pool:
        faults = [f for f in pool.map(work, (ordered[i::count] for i in range(count))) if f]
    if faults:
        raise CompileError(faults[0])


def _importable_from() -> str:
    """The folder that lowgrad is imported from, for workers of a checkout that is not installed."""
    return str(Path(__file__).parents[3])
