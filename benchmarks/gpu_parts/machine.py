"""Which GPU there is, or why there is none, and what the figures depend on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from benchmarks import measure
from benchmarks.gpu_parts.bench import ROOT

NOTHING_TO_DO = (
    "These figures need an NVIDIA GPU of compute capability 8.0 or newer, its driver (libcuda.so.1)"
    ' and lowgrad[gpu].\nOn such a machine: pip install -e ".[gpu,test]" and make gpu; the rivals '
    "also need a CUDA build of PyTorch and, if wanted, liger-kernel.\nWithout one, "
    "`python -m benchmarks.run` measures what needs no GPU, and `pytest tests/cuda` runs the GPU's "
    "runtime on a mock driver."
)


@dataclass(frozen=True)
class Machine:
    """The GPU's name, and {what: version} of everything that the figures depend on."""

    name: str
    environment: dict[str, str]

    @property
    def folder(self) -> str:
        """The name as a folder's: "nvidia-h200"."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def find(python: Sequence[str] = (sys.executable,)) -> Machine | str:
    """The machine, or the reason why there is no GPU to measure on.

    Asked in a process of its own: a context here would hold memory that the parts want.
    """
    done = subprocess.run(
        [*python, "-m", "benchmarks.gpu_parts.machine"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode != 0:
        return done.stderr.strip() or f"exit code {done.returncode}"
    found = json.loads(done.stdout.splitlines()[-1])
    return Machine(found["name"], found["environment"])


def main() -> int:
    """Print the first GPU and its environment as JSON; 1 with the reason if there is none."""
    import lowgrad
    from lowgrad.errors import LowgradError

    try:
        lowgrad.cuda.init()
        properties = lowgrad.cuda.get_device_properties()
    except LowgradError as error:
        print(str(error), file=sys.stderr)
        return 1
    environment = {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "multiprocessors": str(properties.multi_processor_count),
        "driver": _driver(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(),
        **measure.environment(),
        "lowgrad": lowgrad.__version__,
    }
    for name in ("cuda-bindings", "liger-kernel"):
        environment[name] = measure.version_of(name)
    print(json.dumps({"name": properties.name, "environment": environment}))
    return 0


def _driver() -> str:
    """The driver's version, by nvidia-smi; else the newest CUDA that it has."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip().splitlines()[0]
    from lowgrad.runtime.cuda.driver import call

    version = int(call("cuDriverGetVersion"))
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def _commit() -> str:
    """The commit that is measured, with + if files differ from it."""
    if not shutil.which("git"):
        return "unknown"
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
