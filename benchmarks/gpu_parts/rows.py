"""Kernels that memory limits: elementwise, softmax, norms, cross entropy; bytes over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.contest import Call, Contest, contest
from benchmarks.gpu_parts.rivals import liger
from benchmarks.gpu_parts.row import Row

# Elements of each input: 128 MiB in bfloat16, more than the cache.
ELEMENTS = 1 << 26
ROWS = [1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]
# Shares of the measured copy. A row of 64K elements is read twice by a softmax that goes through
# it in pieces: two thirds is what that leaves.
SHARE_ELEMENTWISE, SHARE_ROWS, SHARE_LONG_ROWS = 0.95, 0.92, 0.65
LONG = 65536
BYTES = {"bfloat16": 2, "float32": 4}


def elementwise(bench: Bench) -> None:
    """A copy, a sum, three inputs, GELU, in both dtypes."""
    n = 64 if bench.is_tiny else 8192
    cases: list[tuple[str, Call, int, int, str]] = [
        ("clone", lambda lib, x: x.clone(), 1, 1, "bfloat16"),
        ("x + 1", lambda lib, x: x + 1, 1, 1, "bfloat16"),
        ("x * y + z", lambda lib, x, y, z: x * y + z, 3, 1, "bfloat16"),
        ("GELU", lambda lib, x: lib.F.gelu(x), 1, 1, "bfloat16"),
        ("GELU", lambda lib, x: lib.F.gelu(x), 1, 1, "float32"),
        ("GELU backward", lambda lib, x: lib.F.gelu(x), 2, 1, "bfloat16"),
    ]
    for name, call, inputs, outputs, dtype in cases:
        label = f"{name}, {dtype} {n}^2"
        is_backward = name.endswith("backward")

        def measure(
            label: str = label,
            call: Call = call,
            inputs: int = inputs,
            outputs: int = outputs,
            dtype: str = dtype,
            is_backward: bool = is_backward,
        ) -> Row:
            # The backward call returns the value as well: one more array.
            work = (inputs + outputs + is_backward) * n * n * BYTES[dtype]
            tensors = tuple(bench.normal(n, n, dtype=dtype) for _ in range(inputs))
            learned, seeded = ((0,), True) if is_backward else ((), False)
            of = Contest(label, call, tensors, work, "B", learned, seeded, dtype)
            return of_copy(contest(bench, of), SHARE_ELEMENTWISE)

        bench.row(label, measure)


def softmax(bench: Bench) -> None:
    """Forward, over rows of 1K to 128K."""

    def call(lib: Any, x: Any) -> Any:
        return lib.F.softmax(x, dim=-1)

    fast = liger("liger_softmax")
    for width in widths(bench):
        _forward(bench, "softmax", call, width, fast)


def norms(bench: Bench) -> None:
    """Forward over rows of 1K to 128K, and with gradients over some."""
    for name, call, weights in [("layer norm", _layer_norm, 2), ("RMS norm", _rms_norm, 1)]:
        for width in widths(bench):
            _forward(bench, name, call, width, None, weights)
        for width in [w for w in widths(bench) if w in (4096, 16384)] or widths(bench)[:1]:
            _backward(bench, name, call, width, weights)


def cross_entropy(bench: Bench) -> None:
    """Value and gradient, over classes of 1K to 32K; 32768 rows of 4096 first."""
    shapes = [(32768, 4096)]
    shapes += [(2 * ELEMENTS // w, w) for w in ROWS if w < LONG and w != 4096]
    for rows, classes in [(24, 40)] if bench.is_tiny else shapes:
        name = f"cross entropy with its gradient, {rows} x {classes}"

        def measure(name: str = name, rows: int = rows, classes: int = classes) -> Row:
            tensors = (bench.normal(rows, classes, scale=2.0), bench.classes(classes, rows))
            work = 2 * 2 * rows * classes  # read and written once, two bytes each

            def call(lib: Any, x: Any, y: Any) -> Any:
                return lib.F.cross_entropy(x, y)

            fast = liger("liger_cross_entropy")
            of = Contest(name, call, tensors, work, "B", learned=(0,), liger=fast)
            return of_copy(contest(bench, of), SHARE_ROWS)

        bench.row(name, measure)


def widths(bench: Bench) -> list[int]:
    """The lengths of rows."""
    return [48] if bench.is_tiny else ROWS


def of_copy(row: Row, least: float) -> Row:
    """The row with its target: a share of the measured copy."""
    fraction = row.fraction()
    if fraction is None:
        return row
    figure = Figure("share of the copy", fraction, "", least, at_least=True)
    return replace(row, figures=(*row.figures, figure))


def _share_of(width: int) -> float:
    return SHARE_LONG_ROWS if width >= LONG else SHARE_ROWS


def _layer_norm(lib: Any, x: Any, w: Any, b: Any) -> Any:
    return lib.F.layer_norm(x, (x.shape[-1],), w, b)


def _rms_norm(lib: Any, x: Any, w: Any) -> Any:
    return lib.F.rms_norm(x, (x.shape[-1],), w, 1e-6)


def _liger_norm(weights: int) -> Call | None:
    function = liger("liger_layer_norm" if weights == 2 else "liger_rms_norm")
    if function is None:
        return None
    if weights == 2:
        return lambda x, w, b: function(x, w, b, 1e-5)
    return lambda x, w: function(x, w, 1e-6)


def _rows_of(bench: Bench, width: int) -> int:
    return 12 if bench.is_tiny else ELEMENTS // width


def _forward(
    bench: Bench, name: str, call: Call, width: int, fast: Call | None, weights: int = 0
) -> None:
    rows = _rows_of(bench, width)
    label = f"{name}, {rows} x {width}"

    def measure() -> Row:
        tensors = (bench.normal(rows, width), *(bench.normal(width) for _ in range(weights)))
        used = _liger_norm(weights) if weights else fast
        of = Contest(label, call, tensors, 2 * 2 * rows * width, "B", liger=used)
        return of_copy(contest(bench, of), _share_of(width))

    bench.row(label, measure)


def _backward(bench: Bench, name: str, call: Call, width: int, weights: int) -> None:
    """The step's value and gradients: x and g read, the value and x's gradient written."""
    rows = _rows_of(bench, width)
    label = f"{name} with gradients, {rows} x {width}"

    def measure() -> Row:
        tensors = (
            bench.normal(rows, width),
            *(bench.normal(width) for _ in range(weights)),
            bench.normal(rows, width),
        )
        of = Contest(
            label,
            call,
            tensors,
            4 * 2 * rows * width,
            "B",
            learned=tuple(range(1 + weights)),
            seeded=True,
            liger=_liger_norm(weights),
        )
        return contest(bench, of)

    bench.row(label, measure)
