"""One part in this process: `python -m benchmarks.gpu_parts.child PART FILE SECONDS [--tiny]`.

Rows go to FILE, one JSON object a line, each at once. Whatever kills this process later, they stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.gpu_parts.parts import PARTS
from benchmarks.gpu_parts.row import Row, to_json


def main() -> None:
    """Run it; an exception ends the process with its traceback."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_parts.child")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("rows", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--tiny", action="store_true", help="on the mock, against PyTorch's CPU")
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    args = parser.parse_args()

    def emit(row: Row) -> None:
        with args.rows.open("a", encoding="utf-8") as out:
            out.write(json.dumps(to_json(row)) + "\n")
        print(f"  {row.name}: {row.error or row.verdict or 'measured'}", flush=True)

    from benchmarks.gpu_parts.bench import Bench
    from benchmarks.gpu_parts.clock import Clock
    from benchmarks.gpu_parts.rivals import Torch

    if args.tiny:
        bench = Bench(
            emit,
            limit_s=args.seconds,
            is_tiny=True,
            torch=Torch("cpu", "eager"),
            clock=Clock(seconds=0, warmup_s=0, flush_mib=1, rounds=1),
            python=args.python,
        )
    else:
        bench = Bench(emit, limit_s=args.seconds, python=args.python)
    PARTS[args.part].run(bench)


if __name__ == "__main__":
    main()
