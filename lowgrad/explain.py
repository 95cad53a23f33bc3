"""Why a step became the kernels that it is, as text: `print(c.explain())`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lowgrad.ir.graph import Graph
from lowgrad.passes.base import Pass
from lowgrad.passes.decisions import Decision
from lowgrad.runtime.memory import human

# Longer lists of operations are cut in the middle.
MOST_OPS = 6


@dataclass(frozen=True)
class Explanation:
    """What each pass decided, in the order of the passes and of the program.

    trades: a line for each thing that was given up for memory, as in the plan.
    """

    decisions: tuple[Decision, ...]
    trades: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[Decision, ...]:
        """What was done."""
        return tuple(d for d in self.decisions if d.is_made)

    @property
    def refused(self) -> tuple[Decision, ...]:
        """What was seen and not done."""
        return tuple(d for d in self.decisions if not d.is_made)

    def __str__(self) -> str:
        fusions = (*_section("made", self.made), *_section("refused", self.refused))
        traded = (f"traded: {len(self.trades)}", *(f"  {line}" for line in self.trades))
        return "\n".join((*fusions, *(traded if self.trades else ())))


def explain(
    steps: Iterable[Pass], graphs: Mapping[str, Graph], trades: tuple[str, ...] = ()
) -> Explanation:
    """The decisions of those of `steps` that can be asked. `graphs`: after each, in order."""
    names = list(graphs)
    found: list[Decision] = []
    for step in steps:
        if step.explain is not None:
            before = graphs[names[names.index(step.name) - 1]]
            found.extend(step.explain(before))
    return Explanation(tuple(found), trades)


def _section(title: str, decisions: Sequence[Decision]) -> Iterator[str]:
    """One line for all that only differs in bytes, most bytes first."""
    alike: dict[tuple[object, ...], list[Decision]] = {}
    for d in decisions:
        alike.setdefault((d.by, d.ops, d.reason, d.loc), []).append(d)
    yield f"{title}: {len(decisions)}, {human(sum(d.nbytes for d in decisions))} through memory"
    for group in sorted(alike.values(), key=lambda g: -sum(d.nbytes for d in g)):
        yield _line(group)


def _line(group: list[Decision]) -> str:
    first = group[0]
    count = sum(d.times for d in group)
    times = f"{count} x " if count > 1 else ""
    what = f"{times}{_words(first.ops, ' + ' if first.is_made else ' -> ')}"
    place = f", at {first.loc}" if first.loc else ""
    size = human(sum(d.nbytes for d in group))
    return f"  {size:>10}  {first.by}: {what}: {first.reason}{place}"


def _words(ops: tuple[str, ...], between: str) -> str:
    if len(ops) <= MOST_OPS:
        return between.join(ops)
    half = MOST_OPS // 2
    left_out = f"... {len(ops) - 2 * half} more ..."
    return between.join((*ops[:half], left_out, *ops[-half:]))
