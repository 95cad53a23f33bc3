"""One row of a part: the time of each side, the share of a measured ceiling, figures with targets.

A row is written as JSON the moment it is measured, so that a part that dies later keeps it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.figure import Figure

OURS = "lowgrad"
NOT_REACHED = "not reached"  # how the error of a row begins that there was no time for


@dataclass(frozen=True)
class Side:
    """What one contestant took. ms: None if it did not run; the note says why.

    bytes: of memory above inputs and results, at the most.
    """

    ms: float | None = None
    bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One measured thing. sides: {"lowgrad": ..., "eager": ..., "compile": ..., "liger": ...}.

    work: what must be moved or computed, in bytes or FLOP by `unit`; it does not depend on the
    side. ceiling: the rate that this machine was measured to reach, a second.
    error: why there is no measurement, "" if there is one.
    """

    name: str
    sides: dict[str, Side] = field(default_factory=dict)
    work: float | None = None
    unit: str = ""
    ceiling: float | None = None
    figures: tuple[Figure, ...] = ()
    note: str = ""
    error: str = ""

    @property
    def ours_ms(self) -> float | None:
        """lowgrad's milliseconds."""
        return self.sides[OURS].ms if OURS in self.sides else None

    @property
    def best_rival(self) -> str | None:
        """The fastest of the others."""
        times = {k: s.ms for k, s in self.sides.items() if k != OURS and s.ms is not None}
        return min(times, key=lambda k: times[k]) if times else None

    @property
    def ratio(self) -> float | None:
        """How many times faster than the fastest rival lowgrad is."""
        rival = self.best_rival
        if rival is None or not self.ours_ms:
            return None
        theirs = self.sides[rival].ms
        return None if theirs is None else theirs / self.ours_ms

    def rate(self, side: str = OURS) -> float | None:
        """Bytes or FLOP a second."""
        ms = self.sides[side].ms if side in self.sides else None
        return self.work / (ms * 1e-3) if self.work and ms else None

    def fraction(self, side: str = OURS) -> float | None:
        """The share of the ceiling that was reached."""
        rate = self.rate(side)
        return rate / self.ceiling if rate and self.ceiling else None

    @property
    def verdict(self) -> str:
        """`met`, `MISSED`, `failed`, or nothing where there is no target."""
        if self.error:
            return "failed"
        bounded = [f for f in self.figures if f.bound is not None]
        if not bounded:
            return ""
        return "met" if all(f.holds for f in bounded) else "MISSED"


def to_json(row: Row) -> dict[str, Any]:
    """The row as JSON's types, with what follows from it for readers of the file."""
    made = asdict(row)
    made["ratio"], made["fraction"], made["verdict"] = row.ratio, row.fraction(), row.verdict
    for told, figure in zip(made["figures"], row.figures, strict=True):
        told["holds"] = figure.holds
        if not math.isfinite(figure.value):
            told["value"] = str(figure.value)  # JSON has no infinity
    return made


def from_json(record: dict[str, Any]) -> Row:
    """The row that `to_json` wrote."""
    figures = tuple(
        Figure(f["name"], float(f["value"]), f["unit"], f["bound"], f["at_least"])
        for f in record["figures"]
    )
    sides = {name: Side(**side) for name, side in record["sides"].items()}
    plain = {k: record[k] for k in ("name", "work", "unit", "ceiling", "note", "error")}
    return Row(sides=sides, figures=figures, **plain)
