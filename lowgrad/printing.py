"""How a tensor looks when printed: as PyTorch's would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lowgrad.ir.op import Array
from lowgrad.ir.types import TensorType, bool_, int64
from lowgrad.promotion import get_default_dtype
from lowgrad.tape import Step

WIDTH = 80  # columns of a line
MOST = 1000  # elements printed in full
EDGE = 3  # elements or rows at each end of a dim that is cut short
DIGITS = 4
PREFIX = "tensor("


def tensor_text(
    array: Array | None, type_: TensorType, leaf: bool, step: Step | None, where: str = ""
) -> str:
    """`tensor([[1., 2.]], requires_grad=True)`; a recorded tensor prints its type only.

    where: the device, if it is worth a note.
    """
    if array is None:
        return f"tensor(<recorded>, {type_})"
    text = PREFIX + _body(array.astype(type_.dtype.wide, copy=False))
    notes = [f"device='{where}'"] if where else []
    return _with_notes(text, notes + _notes(type_, leaf, step))


def _notes(type_: TensorType, leaf: bool, step: Step | None) -> list[str]:
    notes = []
    plain: tuple[Any, ...] = (get_default_dtype(), int64, bool_)
    if type_.numel == 0:
        plain = plain[:1]  # nothing shows that it holds integers
        if type_.ndim != 1:
            notes.append(f"size={type_.shape}")
    if type_.dtype not in plain:
        notes.append(f"dtype={type_.dtype!r}")
    if step is not None and step.node is not None:
        notes.append(f"grad_fn=<{step.node.op.name}>")
    elif leaf:
        notes.append("requires_grad=True")
    return notes


def _with_notes(text: str, notes: list[str]) -> str:
    """The notes after the numbers, on a new line where this one is full."""
    used = len(text) - text.rfind("\n") + 1
    for note in notes:
        if used + len(note) + 2 > WIDTH:
            text += ",\n" + " " * len(PREFIX) + note
            used = len(PREFIX) + len(note)
        else:
            text += ", " + note
            used += len(note) + 2
    return text + ")"


def _body(array: Array) -> str:
    if array.size == 0:
        return "[]"
    short = array.size > MOST
    write = _writer(_edges(array) if short else array)
    return _nested(array, len(PREFIX), short, write)


def _edges(array: Array) -> Array:
    """What of a large array is printed."""
    for axis, size in enumerate(array.shape):
        if size > 2 * EDGE:
            kept = [*range(EDGE), *range(size - EDGE, size)]
            array = np.take(array, kept, axis=axis)
    return array


def _nested(array: Array, indent: int, short: bool, write: Callable[[Any], str]) -> str:
    if array.ndim == 0:
        return write(array.item())
    cut = short and array.shape[0] > 2 * EDGE
    rows = [*array[:EDGE], *array[-EDGE:]] if cut else list(array)
    if array.ndim == 1:
        return _vector([write(x.item()) for x in rows], indent, cut)
    texts = [_nested(row, indent + 1, short, write) for row in rows]
    if cut:
        texts.insert(EDGE, "...")
    gap = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + gap.join(texts) + "]"


def _vector(texts: list[str], indent: int, cut: bool) -> str:
    a_line = max(1, (WIDTH - indent) // (len(texts[0]) + 2))
    if cut:
        texts.insert(EDGE, " ...")
    lines = [", ".join(texts[i : i + a_line]) for i in range(0, len(texts), a_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _writer(shown: Array) -> Callable[[Any], str]:
    """How every element is written: one form and one width for all."""
    form = _float_form(shown) if shown.dtype.kind == "f" else str
    numbers = shown.ravel()
    if shown.dtype.kind == "f":
        numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
    width = max((len(form(x)) for x in numbers.tolist()), default=1)
    return lambda x: form(x).rjust(width)


def _float_form(shown: Array) -> Callable[[float], str]:
    sizes = np.abs(shown[np.isfinite(shown) & (shown != 0)].astype(np.float64))
    if sizes.size == 0:
        return lambda x: f"{x:.0f}" + ("." if np.isfinite(x) else "")
    smallest, largest = float(sizes.min()), float(sizes.max())
    whole = bool((sizes == np.ceil(sizes)).all())
    if largest / smallest > 1000 or largest > 1e8 or (not whole and smallest < 1e-4):
        return lambda x: f"{x:.{DIGITS}e}"
    if whole:
        return lambda x: f"{x:.0f}" + ("." if np.isfinite(x) else "")
    return lambda x: f"{x:.{DIGITS}f}"
