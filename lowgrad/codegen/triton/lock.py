"""One lock for all that goes through Triton in this process: one kernel at a time.

Triton's interpreter replaces functions of `triton.language` while a kernel runs, and its compiler
reads the same functions. Nor may two compilations overlap: Python's `ast` (3.11) counts its depth
for all threads together, and Triton's switches are environment variables, which a thread that
starts a program (ptxas) reads while another one sets them. Both failed once in some hundreds.
"""

from __future__ import annotations

import threading

language_lock = threading.Lock()
