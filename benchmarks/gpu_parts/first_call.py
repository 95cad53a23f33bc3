"""GPT-2's step once, in a process of its own: prints the seconds of import and first call.

`python -m benchmarks.gpu_parts.first_call lowgrad cuda inductor full 8`
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    """Import, build, call once and wait; print JSON."""
    library_name, device, backend, size_name, batch = sys.argv[1:6]
    start = time.perf_counter()
    from benchmarks.programs import library

    lib = library(library_name)
    imported = time.perf_counter()
    from benchmarks.gpu_parts.training import gpt2, gpt_step

    made = gpt_step(lib, gpt2(size_name == "tiny", int(batch)), device)
    if library_name == "lowgrad":
        step = lib.top.compile(made.eager, device=device)
    else:
        step = made.whole(lib.top.compile(made.forward, backend=backend, dynamic=False))
    built = time.perf_counter()
    loss = float(step(*made.batch).detach().item())  # waits for all of it
    done = time.perf_counter()
    found = {"import_s": imported - start, "first_call_s": done - built, "loss": loss}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
