"""Why a step became the kernels that it is, as text: `print(c.explain())`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowgrad.ir.graph import Graph, Location
from lowgrad.passes.base import Pass
from lowgrad.passes.decisions import Decision
from lowgrad.runtime.memory import Buffer, human

if TYPE_CHECKING:
    from lowgrad.codegen.lower import Launch

# Longer lists of operations are cut in the middle.
MOST_OPS = 6
# Of the peak's holders and of the slowest kernels, what is listed.
MOST_LINES = 5


@dataclass(frozen=True)
class Share:
    """What a kernel's launches take of a step's modelled time, and what limits it.

    Kernels of one name count as one: those of the layers of a network. loc: the slowest one's line.
    """

    kernel: str
    times: int
    part: float
    bound: str
    target: str
    loc: Location | None


@dataclass(frozen=True)
class Explanation:
    """What each pass decided, in the order of the passes and of the program.

    trades: a line for each thing that was given up for memory, as in the plan.
    peak, holders: the arena's bytes, and the buffers that hold them at the peak, largest first.
    slowest: the kernels that the roofline gives most of a step's time, most first.
    """

    decisions: tuple[Decision, ...]
    trades: tuple[str, ...] = ()
    peak: int = 0
    holders: tuple[Buffer, ...] = ()
    slowest: tuple[Share, ...] = ()

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
        return "\n".join((*fusions, *(traded if self.trades else ()), *self._peak(), *self._time()))

    def _peak(self) -> Iterator[str]:
        if not self.holders:
            return
        yield f"peak of the arena: {human(self.peak)}, held by"
        yield from (f"  {human(b.nbytes):>10}  {_held(b)}" for b in self.holders[:MOST_LINES])
        if len(self.holders) > MOST_LINES:
            rest = self.holders[MOST_LINES:]
            yield f"  {human(sum(b.nbytes for b in rest)):>10}  {len(rest)} smaller ones"

    def _time(self) -> Iterator[str]:
        if not self.slowest:
            return
        yield f"time by the roofline of {self.slowest[0].target}: most in"
        for share in self.slowest[:MOST_LINES]:
            times = f"{share.times} x " if share.times > 1 else ""
            place = f", at {share.loc}" if share.loc else ""
            yield f"  {share.part:>10.0%}  {times}{share.kernel}, bound by {share.bound}{place}"


def decisions(steps: Iterable[Pass], graphs: Mapping[str, Graph]) -> tuple[Decision, ...]:
    """The decisions of those of `steps` that can be asked. `graphs`: after each, in order."""
    names = list(graphs)
    found: list[Decision] = []
    for step in steps:
        if step.explain is not None:
            before = graphs[names[names.index(step.name) - 1]]
            found.extend(step.explain(before))
    return tuple(found)


def shares(launches: Iterable[Launch], target: str) -> tuple[Share, ...]:
    """The kernels by what the roofline of `target` gives them, most first; none without rates."""
    from lowgrad.codegen.facts import modelled

    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    slowest: dict[str, tuple[float, str, Location | None]] = {}
    for kernel, times in launches:
        model = modelled(kernel, target)
        if model is None:
            return ()
        name = kernel.name
        seconds[name] = seconds.get(name, 0.0) + times * model.seconds
        counts[name] = counts.get(name, 0) + times
        if name not in slowest or model.seconds > slowest[name][0]:
            slowest[name] = (model.seconds, model.bound, kernel.loc)
    total = sum(seconds.values())
    ranked = [
        Share(name, counts[name], spent / total, slowest[name][1], target, slowest[name][2])
        for name, spent in seconds.items()
    ]
    return tuple(sorted(ranked, key=lambda share: -share.part))


def _held(b: Buffer) -> str:
    place = f", at {b.loc}" if b.loc else ""
    return f"{b.name} {b.type or 'temporaries'}, over nodes {b.first}-{b.last}{place}"


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
