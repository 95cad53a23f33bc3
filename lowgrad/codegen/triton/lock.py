"""One lock for all that goes through Triton in this process: one kernel at a time.

Triton's interpreter replaces functions of `triton.language` while a kernel runs, and its compiler
reads the same functions. Nor do two compilations overlap: on two threads some hundreds of them gave
one that failed, in Python's `ast` (3.11), in starting cuobjdump, or in the compiler. Probably what
is shared is the depth that `ast` counts, and the environment that holds Triton's switches.
"""

from __future__ import annotations

import threading

language_lock = threading.Lock()
