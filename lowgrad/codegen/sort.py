"""Sort as kernels: elements become integers that compare as they do, which `merge_sort` orders."""

from __future__ import annotations

import math

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.merge_sort import Keys, ordered_into
from lowgrad.codegen.reader import At, Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.index import Index, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import int32, int64


def sort(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """The kernels of a sort of lines of two or more elements; the last stores both outputs."""
    case = _Sort(region)
    return ordered_into(region, case.keys(), tiling, case.store)


class _Sort:
    """A sort along `dim`. A line is the elements of x whose other places are the same."""

    def __init__(self, region: Region) -> None:
        self.region = region
        (self.node,) = region.nodes
        (self.x,) = self.node.inputs
        self.dim: int = self.node.attrs["dim"]
        self.shape = self.x.type.shape
        self.others = tuple(n for d, n in enumerate(self.shape) if d != self.dim)

    def keys(self) -> Keys:
        """Integers in the order that is asked for: 32 bits, or 64 for types of 64 bits."""
        dtype = int64 if self.x.type.dtype.itemsize == 8 else int32

        def at(reader: Reader, row: Index, place: Index) -> Tile:
            body = reader.body
            x = reader.tile(self.x, self._at(row, place))
            body.wish, body.loc = "", self.node.loc
            fn = "sort_key" if x.dtype.is_floating_point else "cast"
            key = body.let(fn, x, dtype=dtype, name="key")
            if self.node.attrs["descending"]:
                # Of integers ~key is the reverse order, and has no overflow as -key has.
                key = body.let("xor", key, -1, dtype=dtype, name="key")
            return key

        return Keys(math.prod(self.others), self.shape[self.dim], dtype, at)

    def _at(self, row: Index, place: Index) -> At:
        others = list(unflatten(row, self.others))
        return (*others[: self.dim], place, *others[self.dim :])

    def store(self, reader: Reader, row: Index, place: Index, source: Index) -> None:
        """The element that was at `source`, and its old place, go to `place`."""
        body = reader.body
        (value, values), (_, places) = self.region.outputs
        x = reader.as_tile(reader.value(self.x, self._at(row, source), raw=True), value.type.dtype)
        flat = flatten(self._at(row, place), self.shape)
        masks = body.masks_of(source)
        body.store(values.name, flat, x, masks)
        body.wish = "source"
        body.store(places.name, flat, body.position(source, int64), masks)
