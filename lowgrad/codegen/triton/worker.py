"""A process that compiles kernels into the cache: jobs as lines on stdin, until it ends."""

from __future__ import annotations

import sys

from lowgrad.codegen.triton.compile import compile_job
from lowgrad.codegen.triton.store import from_line, read, write
from lowgrad.errors import CompileError


def main() -> int:
    """Compile each job; 1 after the first that does not compile, with the reason on stderr."""
    for line in sys.stdin:
        job = from_line(line)
        if read(job) is not None:
            continue
        try:
            write(job, compile_job(job))
        except CompileError as error:
            print(error.message, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
