"""What a pass decided, as data for whoever asks why: what it did, what it refused, and its reason.

A pass that can be asked has `Pass.explain`: from the graph as the pass got it, its decisions. They
are worked out again when asked, so that compiling records nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowgrad.errors import Location


@dataclass(frozen=True, slots=True)
class Decision:
    """Something a pass did (`is_made`), or saw and refused.

    ops: what it is about, the names of operations in order.  reason: why, in words.
    nbytes: the bytes through memory that this saves, or would have saved, in one run of the step.
    loc: the user's line.  times: how often a step runs it; nbytes is for all of them.
    """

    by: str
    is_made: bool
    ops: tuple[str, ...]
    reason: str
    nbytes: int
    loc: Location | None
    times: int = 1
