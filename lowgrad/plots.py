"""Pictures of a run: its loss curves, and its memory over one step. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowgrad.errors import MissingDependencyError
from lowgrad.runtime.memory import Plan, human

# Okabe & Ito 2008: colours that people with any colour vision can tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
LABELLED_SHARE = 0.05  # of the arena: smaller buffers have no room for their name


def overview(curves: Mapping[str, Sequence[float]], plan: Plan, path: str | Path) -> Path:
    """Loss curves above the memory timeline of one step, as a PNG at `path`.

    curves: losses step by step, by name. Every buffer of `plan` is drawn at its offset, from the
    first node that has it to the last.
    """
    pyplot = _pyplot()
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(10, 9), layout="constrained")
    _losses(top, curves)
    _timeline(bottom, plan)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return Path(path)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError(
            "plots: matplotlib is not installed", fix="pip install 'lowgrad[demo]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _losses(axes: Any, curves: Mapping[str, Sequence[float]]) -> None:
    styles = ("-", (0, (4, 4)), ":")
    for number, (name, losses) in enumerate(curves.items()):
        axes.plot(
            losses,
            label=name,
            color=PALETTE[number % len(PALETTE)],
            linestyle=styles[number % len(styles)],
            linewidth=2.4 if number == 0 else 1.8,
        )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title("Training loss", loc="left", fontweight="bold")
    axes.legend(frameon=False)
    _plain(axes)


def _timeline(axes: Any, plan: Plan) -> None:
    for number, b in enumerate(plan.buffers):
        colour = "#C8C8C8" if b.type is None else PALETTE[number % len(PALETTE)]
        axes.bar(
            b.first,
            b.nbytes / 1024,
            width=b.last - b.first + 1,
            bottom=b.offset / 1024,
            align="edge",
            color=colour,
            edgecolor="white",
            linewidth=0.6,
            alpha=0.9,
        )
        if b.nbytes > LABELLED_SHARE * plan.arena_bytes and b.last - b.first >= 1:
            middle = (b.first + (b.last - b.first + 1) / 2, (b.offset + b.nbytes / 2) / 1024)
            text = str(b.type) if b.type is not None else "temporaries"
            axes.annotate(text, middle, ha="center", va="center", fontsize=8)
    top = plan.arena_bytes / 1024
    axes.axhline(top, color="#444444", linewidth=1, linestyle="--")
    axes.annotate(
        f"arena {human(plan.arena_bytes)} = {plan.arena_bytes:,} bytes",
        (0, top),
        textcoords="offset points",
        xytext=(4, 5),
        fontsize=9,
    )
    axes.set_ylim(0, top * 1.1)
    axes.set_xlabel("kernel")
    axes.set_ylabel("offset in the arena, KiB")
    title = "Memory of one step: every buffer at its offset; grey: one kernel's temporaries (CPU)"
    axes.set_title(title, loc="left", fontweight="bold")
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
