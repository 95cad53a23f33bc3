"""What ops say follows from what is known of their operands holds for all the others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lowgrad.ir.index import symbol
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import bool_, float32, float64
from lowgrad.ops.pointwise.base import BOOLS, INTEGERS, Known
from lowgrad.ops.pointwise.logic import Comparison

POINTWISE = {name: op for name, op in REGISTRY.items() if op.family == "pointwise"}
NUMBERS = (-math.inf, -2.5, -1.0, 0.0, 0.25, 3.0, math.inf)
FINITE = tuple(x for x in NUMBERS if math.isfinite(x))
WHOLE = (-3, 0, 1, 4)


def operands(name: str) -> list[tuple[tuple[Known, ...], tuple[Known, ...]]]:
    """For each operand what it may be known as, and what it may be if it is not known."""
    op = POINTWISE[name]
    bools = ((True, False), (True, False))
    if name == "where":
        return [bools, (NUMBERS, FINITE), (NUMBERS, FINITE)]
    if op.domain is BOOLS:
        return [bools] * op.arity
    if op.domain is INTEGERS:
        return [(WHOLE, WHOLE)] * op.arity
    return [(NUMBERS, FINITE)] * op.arity


@pytest.mark.parametrize("name", POINTWISE)
def test_what_is_known_is_so_whatever_is_not(name):
    op = POINTWISE[name]
    attrs = {"dtype": float32} if name == "cast" else {}
    ways = operands(name)
    for args in itertools.product(*((None, *known) for known, _ in ways)):
        with np.errstate(all="ignore"):
            result = op.known(*args, **attrs)
        if result is None:
            continue
        unknown = [(a,) if a is not None else free for a, (_, free) in zip(args, ways, strict=True)]
        for values in itertools.product(*unknown):
            with np.errstate(all="ignore"):
                value = np.asarray(op.evaluate(*map(np.asarray, values), **attrs))
            # An operand that is not known is one at which the op is finite, or says nothing new.
            if None in args and np.isnan(value.astype(np.float64)):
                continue
            is_same = result == value or (math.isnan(result) and np.isnan(value))
            assert is_same, f"{args}, known to be {result}, is {value} at {values}"


@pytest.mark.parametrize("name", POINTWISE)
def test_an_operand_is_the_result_whatever_is_not_known(name):
    """Of any numbers, NaN too: kernels leave the op away."""
    op = POINTWISE[name]
    ways = [
        (known, (*free, math.nan) if math.inf in known else free) for known, free in operands(name)
    ]
    found = 0
    for args in itertools.product(*((None, *known) for known, _ in ways)):
        which = op.same_as(*args)
        if which is None:
            continue
        found += 1
        unknown = [(a,) if a is not None else free for a, (_, free) in zip(args, ways, strict=True)]
        for values in itertools.product(*unknown):
            result = np.asarray(op.evaluate(*map(np.asarray, values)))
            np.testing.assert_array_equal(result, values[which], f"{args} with {values}")
    assert (found > 0) == (name in ("where", "logical_and", "logical_or"))


@pytest.mark.parametrize(("name", "args", "result"), [
    ("mul", (0.0, None), 0.0),
    ("add", (None, -math.inf), -math.inf),
    ("sub", (-math.inf, None), -math.inf),
    ("sub", (None, -math.inf), math.inf),
    ("where", (None, 2.0, 2.0), 2.0),
    ("where", (None, 2.0, 3.0), None),
    ("logical_and", (None, False), False),
    ("logical_or", (True, None), True),
    ("eq", (None, -math.inf), False),
    ("div", (0.0, None), 0.0),
    ("exp", (-math.inf,), 0.0),
])  # fmt: skip
def test_what_masks_are_made_of_is_known(name, args, result):
    assert POINTWISE[name].known(*args) == result


@pytest.mark.parametrize("name", [n for n, op in POINTWISE.items() if isinstance(op, Comparison)])
def test_comparisons_are_bounds_of_differences(name):
    op = POINTWISE[name]
    place = symbol("i", 9)
    difference = op.difference(place, 4)
    if op.within is None:
        assert difference is None
        return
    low, high = (math.inf * s if x is None else x for x, s in zip(op.within, (-1, 1), strict=True))

    assert str(difference) == "i - 4"
    for i in range(9):
        assert (low <= i - 4 < high) == bool(op.evaluate(np.array(i), np.array(4)))


def test_indices_are_known_through_sums():
    i, j = symbol("i", 9), symbol("j", 5)

    assert POINTWISE["sub"].known(i, j) == i - j
    assert POINTWISE["add"].known(i, 3) == i + 3
    assert POINTWISE["mul"].known(2, j) == j * 2
    assert POINTWISE["neg"].known(i) == i * -1
    assert POINTWISE["mul"].known(i, j) is None
    assert POINTWISE["cast"].known(i, dtype=float64) == i
    assert POINTWISE["cast"].known(2, dtype=bool_) is True
