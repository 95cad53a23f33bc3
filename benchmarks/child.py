"""One program in a process of its own: `python -m benchmarks.child lowgrad lm-head 2`.

Prints JSON: the most memory that was resident since the imports, less what was then, and the losses
of the steps. A tiny step counts among the imports: PyTorch loads most of 150 MiB at its first one.
Linux only: the figures are the kernel's own, of /proc/self.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import heads, transformers
from benchmarks.programs import Program, fill_weights, library, loss_of

PROGRAMS: dict[str, Callable[[Any], Program]] = {
    "gpt": transformers.gpt,
    "lm-head": heads.lm_head,
    "lm-head-medium": lambda lib: heads.lm_head(lib, heads.MEDIUM),
}
TINY: dict[str, Callable[[Any], Program]] = {
    "gpt": lambda lib: transformers.gpt(lib, transformers.TINY),
    "lm-head": lambda lib: heads.lm_head(lib, heads.TINY),
    "lm-head-medium": lambda lib: heads.lm_head(lib, heads.TINY),
}


def resident_bytes(what: str) -> int:
    """{"VmRSS": now, "VmHWM": the most so far} of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def main() -> None:
    """Import, build, run; print what it took."""
    framework, name, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    lib = library(framework)
    run(lib, TINY[name], 1)
    imported = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    losses = run(lib, PROGRAMS[name], steps)
    print(json.dumps({"peak_bytes": resident_bytes("VmHWM") - imported, "losses": losses}))


def run(lib: Any, make: Callable[[Any], Program], steps: int) -> list[float]:
    """The losses of so many steps, compiled if it is lowgrad."""
    program = fill_weights(make(lib), lib)
    step = program.step if lib.name == "torch" else lib.top.compile(program.step)
    return [loss_of(step(*program.batch)) for _ in range(steps)]


if __name__ == "__main__":
    main()
