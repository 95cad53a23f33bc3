"""A linear layer and a loss over many classes, forward and backward: time, and memory above.

The usual loss has fused kernels elsewhere; the point is that a loss of the user's own, which nobody
has written a kernel for, costs the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks import heads
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.contest import Call, Contest, contest
from benchmarks.gpu_parts.rivals import liger
from benchmarks.gpu_parts.row import OURS, Row

MIB = 1 << 20
MOST_MS, MOST_MIB, ARBITRARY = 46.0, 512.0, 1.10


@dataclass(frozen=True)
class Head:
    """Rows of hidden states, their width, the classes; the targets where they were set."""

    rows: int
    width: int
    classes: int
    is_bounded: bool


LARGE = Head(8192, 4096, 131072, True)
WIDE = Head(8192, 2304, 256000, False)
TINY = Head(24, 16, 96, True)


def head(bench: Bench) -> None:
    """8192 x 4096 x 131072: the case that the targets are for."""
    _all_losses(bench, TINY if bench.is_tiny else LARGE)


def head_wide(bench: Bench) -> None:
    """8192 x 2304 x 256000."""
    _all_losses(bench, TINY if bench.is_tiny else WIDE)


def _all_losses(bench: Bench, size: Head) -> None:
    usual: dict[str, float] = {}
    cases: list[tuple[str, heads.HeadLoss, Call | None]] = [
        ("cross entropy", heads.cross_entropy, _liger()),
        ("focal loss", heads.focal, None),
        ("soft cap and z-loss", heads.capped_with_z_loss, None),
    ]
    for name, loss, fast in cases:
        label = f"linear + {name}, {size.rows} x {size.width} x {size.classes}"

        def measure(
            name: str = name,
            loss: heads.HeadLoss = loss,
            fast: Call | None = fast,
            label: str = label,
        ) -> Row:
            row = _measured(bench, size, label, loss, fast)
            figures = _figures(row, size, usual.get("ms"), is_usual=name == "cross entropy")
            if name == "cross entropy" and row.ours_ms is not None:
                usual["ms"] = row.ours_ms
            return replace(row, figures=(*row.figures, *figures))

        bench.row(label, measure)
    if size.is_bounded:
        label = f"linear + cross entropy within {MOST_MIB:g} MiB, {size.rows} rows"
        bench.row(label, lambda: _within_budget(bench, size, label))


def _within_budget(bench: Bench, size: Head, label: str) -> Row:
    """The usual loss once more, told that it may have no more than the target's memory."""
    row = _measured(bench, size, label, heads.cross_entropy, None, most=int(MOST_MIB * MIB))
    return replace(row, figures=(*row.figures, *_figures(row, size, None, is_usual=True)))


def _measured(
    bench: Bench,
    size: Head,
    label: str,
    loss: heads.HeadLoss,
    fast: Call | None,
    *,
    most: int | None = None,
) -> Row:
    """most: bytes that lowgrad may use above inputs and results; without rivals then."""
    hidden = bench.normal(size.rows, size.width)
    weight = bench.normal(size.classes, size.width, scale=2.0 * size.width**-0.5)
    targets = bench.classes(size.classes, size.rows)

    def call(lib: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        return loss(lib, lib.F.linear(hidden, weight), targets)

    # The logits, and two products for the gradients; making the logits again is not counted.
    flops = 3 * 2 * size.rows * size.width * size.classes
    # Inputs, gradients as large, a class of eight bytes for each row, the loss.
    given = 2 * 2 * (size.rows + size.classes) * size.width + 8 * size.rows + 4
    of = Contest(
        label,
        call,
        (hidden, weight, targets),
        flops,
        "FLOP",
        (0, 1),
        liger=fast,
        autotune_s=90,
        budget=None if most is None else given + most,
        rivals=most is None,
    )
    return contest(bench, of, memory=True)


def _figures(row: Row, size: Head, usual_ms: float | None, *, is_usual: bool) -> list[Figure]:
    """Time and memory with their targets."""
    ours = row.sides.get(OURS)
    if ours is None or ours.ms is None:
        return []
    most_ms, most_mib = (MOST_MS, MOST_MIB) if size.is_bounded else (None, None)
    found = []
    if is_usual:
        found.append(Figure("forward and backward", ours.ms, "ms", most_ms))
    elif usual_ms is not None:
        found.append(Figure("time / cross entropy's", ours.ms / usual_ms, "x", ARBITRARY))
    if ours.bytes is not None:
        found.append(Figure("memory above inputs and gradients", ours.bytes / MIB, "MiB", most_mib))
    return found


def _liger() -> Call | None:
    function = liger("liger_fused_linear_cross_entropy")
    if function is None:
        return None
    return lambda hidden, weight, targets: function(hidden, weight, targets)
