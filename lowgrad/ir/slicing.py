"""How a node runs in pieces: which dim of each operand and result a loop goes along.

A loop of `steps` steps goes along a dim of size n in pieces of n / steps. Operands that it does not
go along are whole in every to. Results it does not go along are combined over the pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.types import TensorType

Array = npt.NDArray[Any]


class Slicing(NamedTuple):
    """A way to run a node in pieces.

    ins: for each operand the dim that is sliced, None for whole. outs: for each result the dim that
    the pieces lie along, or the name of the tile function that combines them (`add`, `maximum`), or
    None for what every piece makes whole.
    """

    ins: tuple[int | None, ...]
    outs: tuple[int | str | None, ...]


class Place(NamedTuple):
    """A dim of an operand or a result of a node."""

    is_result: bool
    position: int
    dim: int


class Axis(NamedTuple):
    """What a node is asked to be sliced by: `place`, along which a loop takes `steps` steps."""

    place: Place
    steps: int
    ins: tuple[TensorType, ...]
    outs: tuple[TensorType, ...]

    def divides(self, size: int) -> bool:
        """Whether each step takes equally many of `size`."""
        return size % self.steps == 0


@dataclass(frozen=True)
class Cut:
    """The piece of a node that is made: `taken` steps of it, from step `start()` on.

    outs: the types of its results. dims: the dims that they are sliced along, None for combined.
    full: the types of the whole results. total: the steps of the whole loop.
    """

    builder: Builder
    outs: tuple[TensorType, ...]
    dims: tuple[int | None, ...]
    full: tuple[TensorType, ...]
    total: int
    taken: int
    start: Callable[[], Tracer]

    def first(self, position: int = 0) -> Tracer:
        """Where result `position` starts along its sliced dim, counted in its elements; i64[]."""
        dim = self.dims[position]
        assert dim is not None, "a combined result has no place in the whole one"
        unit = self.full[position].shape[dim] // self.total
        return self.start() * unit


def same_dim(axis: Axis) -> Slicing | None:
    """All operands and results along one dim, in which their sizes are equal."""
    dim = axis.place.dim
    types = (*axis.ins, *axis.outs)
    sizes = {t.shape[dim] for t in types}
    if len(sizes) != 1 or not axis.divides(sizes.pop()):
        return None
    return Slicing((dim,) * len(axis.ins), (dim,) * len(axis.outs))


def windowed(attrs: dict[str, Any], to: Cut, base: TensorType) -> dict[str, Any]:
    """The attrs of a slice of `base`, whose window spans the sliced dim."""
    stops = list(attrs["stops"])
    (dim,) = to.dims
    assert dim is not None, "a slice has a place for every element"
    stops[dim] = base.shape[dim]
    return {**attrs, "stops": tuple(stops)}


def window(array: Array, dim: int | str | None, start: int, taken: int, steps: int) -> Array:
    """The part of `array` that `taken` of `steps` steps from `start` on take along `dim`."""
    if not isinstance(dim, int):
        return array
    unit = array.shape[dim] // steps
    return array[(slice(None),) * dim + (slice(start * unit, (start + taken) * unit),)]
