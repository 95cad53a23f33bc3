"""Two texts side by side: what is equal is left out, but for a little around each difference."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

AROUND = 2
# Longer lines are cut: a step's head names all its inputs.
LONGEST = 240


class Line(NamedTuple):
    """A row: what is left and right, with line numbers; kind "same", "changed" or "gap"."""

    kind: str
    left_number: int | None
    left: str
    right_number: int | None
    right: str


def side_by_side(old: Sequence[str], new: Sequence[str]) -> Iterator[Line]:
    """The rows. A gap stands for equal lines that are not shown."""
    # Lines repeat in an IR (renumbered values), and looking for junk would cost more than it saves.
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=len(old) > 2000)
    groups = list(matcher.get_grouped_opcodes(AROUND))
    for number, group in enumerate(groups):
        if number:
            yield Line("gap", None, "", None, "")
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                for i, j in zip(range(i1, i2), range(j1, j2), strict=True):
                    yield Line("same", i + 1, _cut(old[i]), j + 1, _cut(new[j]))
                continue
            for k in range(max(i2 - i1, j2 - j1)):
                left, right = i1 + k < i2, j1 + k < j2
                yield Line(
                    "changed",
                    i1 + k + 1 if left else None,
                    _cut(old[i1 + k]) if left else "",
                    j1 + k + 1 if right else None,
                    _cut(new[j1 + k]) if right else "",
                )


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
