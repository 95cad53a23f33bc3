"""Pictures of one device's results. Needs matplotlib."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.report import RIVALS, rows_of
from benchmarks.gpu_parts.row import OURS, Row
from benchmarks.gpu_parts.store import Record
from benchmarks.pictures import GREY, RED, logarithmic, saved
from lowgrad.plots import PALETTE

SIDES = {OURS: "lowgrad", **RIVALS}
COLORS = {OURS: PALETTE[0], "eager": GREY, "compile": PALETTE[1], "liger": PALETTE[2]}
# {picture: (parts, title)} of those that are bars: the share of the ceiling, side by side.
SHARES = {
    "elementwise": (("speed.elementwise", "speed.adamw"), "Share of the measured copy"),
    "products": (
        ("speed.matmul", "speed.linear_gelu", "speed.head", "speed.head_wide"),
        "Share of cuBLAS at 8192^3",
    ),
}
LINES = ("speed.softmax", "speed.norms", "speed.cross_entropy")
WIDTH = re.compile(r" x (\d+)$")
LENGTH = re.compile(r" x (\d+) x \d+$")


def draw(record: Record, folder: Path) -> list[Path]:
    """A PNG for each picture whose parts were measured; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (parts, title) in SHARES.items():
        rows = [r for part in parts for r in rows_of(record, part) if r.fraction() is not None]
        if rows:
            drawn.append(_bars(rows, title, folder / f"{name}.png"))
    rows = [r for part in LINES for r in rows_of(record, part)]
    if rows:
        title = "Share of the measured copy, by the length of a row"
        drawn.append(_panels(rows, WIDTH, _share, title, folder / "rows.png"))
    rows = list(rows_of(record, "speed.attention"))
    if rows:
        title = "Causal attention, TFLOP/s by the length of the sequence"
        drawn.append(_panels(rows, LENGTH, _tera, title, folder / "attention.png"))
    rows = [r for part in ("speed.small_steps", "speed.gpt2") for r in rows_of(record, part)]
    if rows:
        drawn.append(_steps(rows, folder / "steps.png"))
    return drawn


def _share(row: Row, side: str) -> float | None:
    return row.fraction(side)


def _tera(row: Row, side: str) -> float | None:
    rate = row.rate(side)
    return None if rate is None else rate / 1e12


def _bars(rows: list[Row], title: str, path: Path) -> Path:
    """Every row's share of its ceiling, side by side."""
    from matplotlib import pyplot

    sides = [n for n in SIDES if any(n in r.sides for r in rows)]
    height = 0.8 / len(sides)
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.5 * len(rows)), layout="constrained")
    for number, side in enumerate(sides):
        places = [r + (number - (len(sides) - 1) / 2) * height for r in range(len(rows))]
        values = [row.fraction(side) or 0.0 for row in rows]
        axes.barh(places, values, 0.9 * height, color=COLORS[side], label=SIDES[side])
    axes.axvline(1.0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(rows)), [r.name for r in rows], fontsize=7)
    axes.invert_yaxis()
    figure.legend(frameon=False, loc="outside lower center", ncols=len(sides))
    return saved(figure, axes, title, path)


def _panels(
    rows: list[Row],
    length: re.Pattern[str],
    value: Callable[[Row, str], float | None],
    title: str,
    path: Path,
) -> Path:
    """A panel for each kind of row, a line for each side."""
    from matplotlib import pyplot

    kinds: dict[str, list[tuple[int, Row]]] = {}
    for row in rows:
        found = length.search(row.name)
        if found is not None:
            kinds.setdefault(row.name.partition(",")[0], []).append((int(found[1]), row))
    figure, panels = pyplot.subplots(
        1,
        max(len(kinds), 1),
        figsize=(3.2 * max(len(kinds), 1), 3.4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, (kind, members) in zip(panels[0], kinds.items(), strict=False):
        for side in SIDES:
            points = [(n, value(row, side)) for n, row in sorted(members, key=lambda m: m[0])]
            known = [(n, v) for n, v in points if v is not None]
            if known:
                axes.plot(*zip(*known, strict=True), "o-", color=COLORS[side], label=SIDES[side])
        logarithmic(axes)
        axes.set_title(kind, fontsize=8)
        axes.set_ylim(bottom=0)
    handles, labels = _legend(panels[0])
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=4)
    figure.suptitle(title, fontweight="bold")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    known: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    return list(known.values()), list(known)


def _steps(rows: list[Row], path: Path) -> Path:
    """Time and memory of whole steps over lowgrad's: right of the line is worse than ours."""
    from matplotlib import pyplot

    bars: list[tuple[str, float, str]] = []
    for row in rows:
        ours = row.sides.get(OURS)
        if ours is None or ours.ms is None:
            continue
        for name in RIVALS:
            side = row.sides.get(name)
            if side is None or side.ms is None:
                continue
            label = f"{row.name}: {RIVALS[name]}"
            bars.append((f"{label}, time", side.ms / ours.ms, COLORS[name]))
            if side.bytes and ours.bytes:
                bars.append((f"{label}, memory", side.bytes / ours.bytes, COLORS[name]))
    figure, axes = pyplot.subplots(figsize=(9, 1.0 + 0.32 * len(bars)), layout="constrained")
    drawn = axes.barh([b[0] for b in bars], [b[1] for b in bars], color=[b[2] for b in bars])
    axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=7)
    axes.axvline(1.0, color=RED, linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    return saved(figure, axes, "Whole steps: the rival over lowgrad", path)
