"""Telling a wrong result from rounding, which fusing, reordering and 16-bit floats change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.ir.graph import Graph, Value
from lowgrad.ir.interpret import run_node
from lowgrad.ir.types import TensorType
from lowgrad.ir.walk import last_uses

Array = npt.NDArray[Any]

# Of the largest element of a result, by the bytes of a float: kernels add up in another order.
TOLERANCE = {8: 1e-10, 4: 1e-4, 2: 2e-2}
# What a result may differ by is this many times what other rounding does to it, and how often that
# is tried: a single number may come out nearly the same by chance.
NOISE = 4.0
TRIES = 3
# By what share of itself an element is changed to see what rounding does. For 16 bits: more than
# half of what lies between two numbers, so that the next one is taken.
NUDGE = {
    "float64": 2.0**-49,
    "float32": 2.0**-20,
    "float16": 2.0**-11 + 2.0**-16,
    "bfloat16": 2.0**-8 + 2.0**-13,
}


def errors(
    graph: Graph, arrays: Sequence[Array], got: Sequence[Array], want: Sequence[Array]
) -> list[float]:
    """By how much each result of `graph` on `arrays` is wrong: 0 where rounding can explain it.

    got: the results in question. want: what the interpreter makes of `arrays`.
    """
    found = [apart(a, b) for a, b in zip(got, want, strict=True)]
    exact = [tolerance(v.type) for v in graph.outputs]
    allowed = exact
    # Adam, say, divides sums that have cancelled, so what one may expect is seen by trying.
    for seed in range(TRIES):
        if all(f <= a for f, a in zip(found, allowed, strict=True)):
            break
        other = otherwise_rounded(graph, arrays, seed)
        noise = [apart(a, b) for a, b in zip(other, want, strict=True)]
        known = zip(allowed, exact, noise, strict=True)
        allowed = [max(a, e + NOISE * n) for a, e, n in known]
    return [f if f > a else 0.0 for f, a in zip(found, allowed, strict=True)]


def otherwise_rounded(graph: Graph, arrays: Sequence[Array], seed: int = 0) -> tuple[Array, ...]:
    """The outputs of `graph` with its inputs, and each 16-bit value in it, nudged."""
    rng = np.random.default_rng(seed)
    return _run(graph, [nudged(a, rng) for a in arrays], rng)


def _run(graph: Graph, arrays: Sequence[Array], rng: np.random.Generator) -> tuple[Array, ...]:
    values: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
    dead_after = last_uses(graph)
    for node, dead in zip(graph.nodes, dead_after, strict=True):
        operands = tuple(values[v] for v in node.inputs)
        if node.op.name == "fused":
            made = _run(node.attrs["body"], operands, rng)
        else:
            made = run_node(node, operands)
            made = tuple(nudged(a, rng) if a.dtype.itemsize == 2 else a for a in made)
        values.update(zip(node.outputs, made, strict=True))
        for value in dead:
            del values[value]
    return tuple(values[v] for v in graph.outputs)


def nudged(array: Array, rng: np.random.Generator) -> Array:
    """Floats with every element a little larger or smaller, at random: what rounding does."""
    share = NUDGE.get(array.dtype.name)
    if share is None or not array.ndim:
        return array
    bits = np.frombuffer(rng.bytes(-(-array.size // 8)), np.uint8)
    up = np.unpackbits(bits, count=array.size).reshape(array.shape)
    with np.errstate(all="ignore"):
        return np.asarray(wide(array) * np.where(up, 1 + share, 1 - share)).astype(array.dtype)


def apart(got: Array, want: Array) -> float:
    """The largest difference, as a share of the largest element; inf if one is NaN alone."""
    x, y = wide(got), wide(want)
    if not y.size:
        return 0.0
    # What is infinite or NaN in both is equal.
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.where(same, 0.0, x - y)).max()
    if not np.isfinite(difference):
        return float("inf")
    scale = np.abs(y[np.isfinite(y)]).max(initial=0.0)
    return float(difference / scale) if scale else float("inf")


def farthest(got: Array, want: Array) -> str:
    """Where two results are farthest apart, in words: "at [3, 5] it is 1.01, not 1"."""
    x, y = wide(got), wide(want)
    with np.errstate(invalid="ignore"):
        difference = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    # A NaN or an infinity on one side alone is the farthest.
    at = np.unravel_index(np.argmax(np.nan_to_num(difference, nan=np.inf)), x.shape)
    place = f"at {[int(i) for i in at]} " if at else ""
    return f"{place}it is {x[at]:.7g}, not {y[at]:.7g}"


def tolerance(type_: TensorType) -> float:
    """What `apart` may be for results of this type; nothing for integers and bools."""
    return TOLERANCE[type_.dtype.itemsize] if type_.dtype.is_floating_point else 0.0


def same_bits(got: Array, want: Array) -> bool:
    """Whether not one bit differs; NaN is NaN, whatever its bits."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if got.tobytes() == want.tobytes():
        return True
    return apart(got, want) == 0.0 and bool((np.signbit(wide(got)) == np.signbit(wide(want))).all())


def wide(array: Array) -> Array:
    """As float64, which NumPy's functions take, bfloat16's values too."""
    return np.asarray(array, np.float64)
