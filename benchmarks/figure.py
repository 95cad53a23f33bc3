"""A measured number with its bound, and how figures are printed and written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SECONDS = ("s", "ms", "us")  # of this machine, at this hour: missing such a bound is no failure


@dataclass(frozen=True)
class Figure:
    """One measured number and the bound it should keep, if there is one."""

    name: str
    value: float
    unit: str = ""
    bound: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the bound is kept."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def fails(self) -> bool:
        """Whether the run fails by it: a ratio, bytes or a count beyond its bound."""
        return not self.holds and self.unit not in SECONDS

    @property
    def verdict(self) -> str:
        """`<= 1.1  ok`"""
        if self.bound is None:
            return ""
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.bound:g}  {'ok' if self.holds else 'MISSED'}"


@dataclass(frozen=True)
class Grid:
    """Numbers side by side, as text, for a reader who compares."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """Figures that belong together. data: what the pictures of this section are drawn from."""

    title: str
    figures: list[Figure]
    grid: Grid | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def tiny(self) -> Section:
        """The same for sizes that the bounds are not meant for, and says so."""
        unbounded = [replace(f, bound=None) for f in self.figures]
        return replace(self, title=f"{self.title} (at a tiny size)", figures=unbounded)


def show(section: Section, console: Console) -> None:
    """Print the grid if there is one, and the figures; beside a grid, those with a bound."""
    console.print(f"\n[bold]{section.title}[/bold]")
    if section.grid is not None:
        table = Table()
        for number, column in enumerate(section.grid.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in section.grid.rows:
            table.add_row(*row)
        console.print(table)
    listed = [f for f in section.figures if section.grid is None or f.bound is not None]
    if listed:
        console.print(_table(listed))


def _table(figures: list[Figure]) -> Table:
    table = Table("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("bound")
    for f in figures:
        style = None if f.holds else "bold red"
        table.add_row(f.name, f"{f.value:.4g}", f.unit, f.verdict, style=style)
    return table


def write(sections: dict[str, Section], environment: dict[str, str], path: Path) -> None:
    """All figures with their bounds, the machine and the versions, as JSON."""
    record = {
        "environment": environment,
        "sections": {
            name: {
                "title": section.title,
                "figures": {f.name: _record(f) for f in section.figures},
                **section.data,
            }
            for name, section in sections.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _record(f: Figure) -> dict[str, Any]:
    record: dict[str, Any] = {"value": f.value, "unit": f.unit}
    if f.bound is not None:
        record |= {"bound": f.bound, "at_least": f.at_least, "holds": f.holds}
    return record
