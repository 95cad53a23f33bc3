"""Integer index expressions: sums of symbols times constants, with floor division and remainder.

Every symbol has a known range, so that most divisions and comparisons simplify away: what views do
to indices costs nothing where it can. `str` of an Index is Python, and Triton, text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

INT32_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class Symbol:
    """An integer known only in the kernel: 0 <= name < size."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Quotient:
    """of // by, rounded down."""

    of: Index
    by: int


@dataclass(frozen=True, slots=True)
class Remainder:
    """of % by, from 0 to by - 1."""

    of: Index
    by: int


Atom = Symbol | Quotient | Remainder


@dataclass(frozen=True)
class Index:
    """constant + the sum of coefficient * atom. Equal ones are equal for all values of symbols.

    The reverse does not hold: there are equal functions that are not recognised as such.
    """

    terms: tuple[tuple[Atom, int], ...]
    constant: int

    def __add__(self, other: Index | int) -> Index:
        other = as_index(other)
        return _sum((*self.terms, *other.terms), self.constant + other.constant)

    def __mul__(self, factor: int) -> Index:
        return _sum(((a, c * factor) for a, c in self.terms), self.constant * factor)

    def __sub__(self, other: Index | int) -> Index:
        return self + as_index(other) * -1

    def __rsub__(self, other: int) -> Index:
        return self * -1 + other

    def __floordiv__(self, divisor: int) -> Index:
        return _quotient(self, divisor)

    def __mod__(self, divisor: int) -> Index:
        return _remainder(self, divisor)

    __radd__ = __add__
    __rmul__ = __mul__

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest value it may have."""
        low = high = self.constant
        for atom, coefficient in self.terms:
            ends = [coefficient * end for end in _atom_bounds(atom)]
            low += min(ends)
            high += max(ends)
        return low, high

    @cached_property
    def magnitude(self) -> int:
        """No partial result and no constant is larger, whatever the order of summation."""
        total = abs(self.constant)
        for atom, coefficient in self.terms:
            largest = max(abs(end) for end in _atom_bounds(atom))
            total += max(largest, 1) * abs(coefficient)
            if not isinstance(atom, Symbol):
                total = max(total, atom.of.magnitude, atom.by)
        return total

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names of all symbols in it."""
        names: set[str] = set()
        for atom, _ in self.terms:
            names |= {atom.name} if isinstance(atom, Symbol) else atom.of.symbols
        return frozenset(names)

    @property
    def is_constant(self) -> bool:
        """Whether it has no symbols."""
        return not self.terms

    def __str__(self) -> str:
        return _text(self)


def as_index(value: Index | int) -> Index:
    """`value` as an Index."""
    return value if isinstance(value, Index) else Index((), value)


def symbol(name: str, size: int) -> Index:
    """The symbol `name`, from 0 to size - 1. If that leaves only 0, it is the constant."""
    return Index(((Symbol(name, size), 1),), 0) if size > 1 else Index((), 0)


def flatten(at: Sequence[Index | int], shape: Sequence[int]) -> Index:
    """The number in row-major order of the element at index `at`."""
    flat = as_index(0)
    for i, size in zip(at, shape, strict=True):
        flat = flat * size + i
    return flat


def unflatten(flat: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The index of the element whose number in row-major order is `flat`."""
    found: list[Index] = []
    for position, size in enumerate(reversed(shape)):
        is_first = position == len(shape) - 1
        found.append(flat if is_first else flat % size)
        flat = flat // size
    return tuple(reversed(found))


def holds(expr: Index, low: int, high: int) -> bool | None:
    """Whether low <= expr < high: always, never, or (None) sometimes."""
    least, greatest = expr.bounds
    if low <= least and greatest < high:
        return True
    return False if greatest < low or high <= least else None


# --- Normal form -------------------------------------------------------------------------------


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, Symbol):
        return 0, atom.size - 1
    low, high = atom.of.bounds
    if isinstance(atom, Quotient):
        return low // atom.by, high // atom.by
    if low // atom.by == high // atom.by:
        return low % atom.by, high % atom.by
    return 0, atom.by - 1


def _sum(terms: Iterable[tuple[Atom, int]], constant: int) -> Index:
    coefficients: dict[Atom, int] = {}
    for atom, coefficient in terms:
        coefficients[atom] = coefficients.get(atom, 0) + coefficient
    while (joined := _joined(coefficients)) is not None:
        coefficients, more = joined
        constant += more
    kept = [(a, c) for a, c in coefficients.items() if c]
    # One order for equal sums, and the one that reads best: the largest stride first.
    kept.sort(key=lambda term: (-abs(term[1]), term[1] < 0, _atom_text(term[0])))
    return Index(tuple(kept), constant)


def _joined(coefficients: dict[Atom, int]) -> tuple[dict[Atom, int], int] | None:
    """One step of e // d * d + e % d = e, or None if there is none."""
    for atom, k in coefficients.items():
        if not isinstance(atom, Remainder) or k == 0:
            continue
        whole = _quotient(atom.of, atom.by) * (atom.by * k)
        if all(coefficients.get(a) == c for a, c in whole.terms):
            gone = {atom, *(a for a, _ in whole.terms)}
            rest = {a: c for a, c in coefficients.items() if a not in gone}
            for a, c in atom.of.terms:
                rest[a] = rest.get(a, 0) + c * k
            return rest, atom.of.constant * k - whole.constant
    return None


def _quotient(e: Index, d: int) -> Index:
    if d == 1:
        return e
    whole = _sum(((a, c // d) for a, c in e.terms if c % d == 0), e.constant // d)
    rest = _sum(((a, c) for a, c in e.terms if c % d), e.constant % d)
    low, high = rest.bounds
    if low // d == high // d:
        return whole + low // d
    if (parts := _common_factor(rest, d)) is not None:
        factor, outer, _ = parts
        return whole + _quotient(outer, d // factor)
    if len(rest.terms) == 1 and rest.terms[0][1] == 1 and rest.constant == 0:
        (atom, _), *_ = rest.terms
        if isinstance(atom, Quotient):
            return whole + _quotient(atom.of, atom.by * d)
        if isinstance(atom, Remainder) and atom.by % d == 0:
            return whole + _remainder(_quotient(atom.of, d), atom.by // d)
    return whole + Index(((Quotient(rest, d), 1),), 0)


def _remainder(e: Index, d: int) -> Index:
    if d == 1:
        return as_index(0)
    rest = _sum(_inner_remainders_dropped(e, d), e.constant)
    rest = _sum(((a, c) for a, c in rest.terms if c % d), rest.constant % d)
    low, high = rest.bounds
    if low // d == high // d:
        return rest - low // d * d
    if (parts := _common_factor(rest, d)) is not None:
        factor, outer, inner = parts
        return _remainder(outer, d // factor) * factor + inner
    return Index(((Remainder(rest, d), 1),), 0)


def _inner_remainders_dropped(e: Index, d: int) -> Iterable[tuple[Atom, int]]:
    """(x % a) % d = x % d if d divides a."""
    for atom, c in e.terms:
        # Modulo d a multiple of d is nothing; other constants would have to be kept apart.
        is_free = isinstance(atom, Remainder) and (c * atom.by) % d == 0
        if isinstance(atom, Remainder) and is_free and (atom.of.constant * c) % d == 0:
            yield from ((a, k * c) for a, k in atom.of.terms)
        else:
            yield atom, c


def _common_factor(e: Index, d: int) -> tuple[int, Index, Index] | None:
    """(f, a, b) with e = a f + b, 0 <= b < f, and f > 1 a divisor of d; None without such an f."""
    for factor in sorted({math.gcd(c, d) for _, c in e.terms} - {1}, reverse=True):
        inner = _sum(((a, c) for a, c in e.terms if c % factor), e.constant % factor)
        if holds(inner, 0, factor):
            outer = ((a, c // factor) for a, c in e.terms if c % factor == 0)
            return factor, _sum(outer, e.constant // factor), inner
    return None


# --- Text --------------------------------------------------------------------------------------


def _text(e: Index) -> str:
    text = ""
    for atom, coefficient in e.terms:
        sign = "-" if coefficient < 0 else "+"
        factor = abs(coefficient)
        product = _atom_text(atom) + (f" * {factor}" if factor != 1 else "")
        text += f" {sign} {product}" if text else product if sign == "+" else f"-{product}"
    if e.constant or not text:
        sign = "-" if e.constant < 0 else "+"
        text = f"{text} {sign} {abs(e.constant)}" if text else str(e.constant)
    return text


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, Symbol):
        return atom.name
    # Triton truncates, so what may be negative is moved up by a multiple of the divisor first.
    low = atom.of.bounds[0]
    shift = max(-(low // atom.by), 0)
    of = _grouped(atom.of + shift * atom.by)
    if isinstance(atom, Remainder):
        return f"{of} % {atom.by}"
    return f"({of} // {atom.by} - {shift})" if shift else f"{of} // {atom.by}"


def _grouped(e: Index) -> str:
    """Text that can stand before // or %: these, too, go from left to right."""
    is_single = len(e.terms) == 1 and e.terms[0][1] == 1 and e.constant == 0
    return _text(e) if is_single else f"({_text(e)})"
