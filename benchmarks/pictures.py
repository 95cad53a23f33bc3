"""Pictures of the figures: GPT-2's memory, fused against unfused, every bound. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.figure import Figure, Section
from benchmarks.planned import ARENA_BYTES, RIVALS
from lowgrad.plots import PALETTE

matplotlib.use("Agg")
from matplotlib import pyplot

GREY, RED = "#8C8C8C", "#D55E00"


def draw(sections: dict[str, Section], folder: Path) -> list[Path]:
    """A PNG for each picture whose sections were measured; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if "gpt2" in sections:
        drawn.append(_memory(sections["gpt2"], folder / "gpt2.png"))
    if "fusion" in sections:
        drawn.append(_fusion(sections["fusion"].data["ratios"], folder / "fusion.png"))
    bounded = [f for s in sections.values() for f in s.figures if f.bound]
    if bounded:
        drawn.append(_bounds(bounded, folder / "bounds.png"))
    return drawn


def _memory(section: Section, path: Path) -> Path:
    """The memory of GPT-2's step besides its state, ours and the rivals'."""
    arena_bytes = section.data["arena_bytes"].items()
    bars = {f"lowgrad, {name}": n / 1e9 for name, n in arena_bytes}
    rivals = {name: float(facts["arena"].split()[0]) for name, facts in RIVALS.items()}
    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    drawn = axes.barh([*bars, *rivals], [*bars.values(), *rivals.values()], height=0.6)
    for number, bar in enumerate(drawn):
        bar.set_color(PALETTE[0] if number < len(bars) else GREY)
    axes.bar_label(drawn, fmt="%.2f GB", padding=4)
    axes.axvline(ARENA_BYTES / 1e9, color=RED, linestyle="--", linewidth=1, label="bound")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("GB besides parameters and moments")
    axes.legend(frameon=False, loc="upper right")
    return saved(figure, axes, section.title, path)


def _fusion(ratios: dict[str, dict[str, float]], path: Path) -> Path:
    """How many times more the unfused step has of each, for every model."""
    kinds = list(next(iter(ratios.values())))
    height = 0.8 / len(kinds)
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.8 * len(ratios)), layout="constrained")
    for number, kind in enumerate(kinds):
        places = [row + (number - (len(kinds) - 1) / 2) * height for row in range(len(ratios))]
        values = [of[kind] for of in ratios.values()]
        bars = axes.barh(  # from 1, where fusing changes nothing
            places,
            [value - 1.0 for value in values],
            left=1.0,
            height=0.9 * height,
            color=PALETTE[number],
            label=kind,
        )
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=7)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.axvline(1.0, color="#444444", linewidth=1)
    axes.invert_yaxis()
    logarithmic(axes)
    axes.set_xlabel("unfused / fused (log scale)")
    figure.legend(frameon=False, loc="outside lower center", ncols=len(kinds))
    return saved(figure, axes, "What fusing saves: the unfused step over the fused one", path)


def _bounds(figures: list[Figure], path: Path) -> Path:
    """Every bounded figure as a share of its bound: left of the line it holds."""
    shares = [_share(f) for f in figures]
    figure, axes = pyplot.subplots(figsize=(9, 1.0 + 0.24 * len(figures)), layout="constrained")
    rows = range(len(figures))
    axes.hlines(rows, 1.0, shares, color="#C8C8C8", linewidth=1)
    axes.scatter(shares, rows, color=[PALETTE[2] if f.holds else RED for f in figures], zorder=3)
    axes.axvline(1.0, color="#444444", linewidth=1)
    axes.set_yticks(rows, [f.name for f in figures], fontsize=7)
    axes.invert_yaxis()
    logarithmic(axes)
    axes.set_xlabel("share of the bound used (log scale); right of 1 it is missed")
    return saved(figure, axes, "Every figure against its bound", path)


def _share(f: Figure) -> float:
    assert f.bound is not None, "only bounded figures are drawn"
    least = 1e-3  # keeps a 0 on a logarithmic axis
    share = f.bound / max(f.value, least) if f.at_least else f.value / f.bound
    return max(share, least)


def logarithmic(axes: Any) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")


def saved(figure: Any, axes: Any, title: str, path: Path) -> Path:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
