"""The memory that an interpreted kernel sees: its array arguments, watched.

A pointer of the kernel is not an address of the process but `(argument << 48) + middle + offset`.
So an access out of bounds is told from one to the argument that happens to lie beside it, and
nothing outside the arguments can be touched.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.errors import ArgumentError

Array = npt.NDArray[Any]

_ARGUMENT_SHIFT = 48
# Pointers start in the middle of their argument's range, so that small negative offsets stay in it.
_MIDDLE = 1 << 47

_NOBODY, _SEVERAL = 0, -1
_ATOMIC = -2


class AccessError(Exception):
    """What an access did wrong, in words; the interpreter adds the kernel and the program."""


@dataclass
class Region:
    """Bytes shared by the arguments that overlap, and who touched each unit of them.

    writer, reader: [units] program number from 1, or _NOBODY; writer may be _ATOMIC and reader
    _SEVERAL.
    """

    start: int
    stop: int
    unit: int
    writer: npt.NDArray[np.int32] = field(init=False)
    reader: npt.NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        units = -(-(self.stop - self.start) // self.unit)
        self.writer = np.zeros(units, np.int32)
        self.reader = np.zeros(units, np.int32)


@dataclass(frozen=True)
class Argument:
    """One array argument: its bytes from the lowest to the highest element, gaps included."""

    name: str
    array: Array
    start: int
    raw: npt.NDArray[np.uint8]
    region: Region

    def shift(self) -> int:
        """Byte offset of this argument in its region."""
        return self.start - self.region.start


@dataclass(frozen=True)
class Access:
    """The live lanes of one load or store that point into one argument.

    lanes: [n] positions among all lanes.  offsets: [n] bytes from the argument's start.
    """

    argument: Argument
    lanes: npt.NDArray[np.intp]
    offsets: npt.NDArray[np.int64]


class Memory:
    """The arguments of one launch. With `watch`, two programs at one address are an error."""

    def __init__(self, names: Sequence[str], arrays: Sequence[Array], watch: bool) -> None:
        self.watch = watch
        self.arguments = _arguments(names, arrays)
        self.program = 0
        self.program_id: Callable[[int], object] = lambda program: program

    def pointer(self, position: int) -> int:
        """The kernel's pointer to the first element of the `position`-th array."""
        argument = self.arguments[position]
        first = argument.array.ctypes.data - argument.start  # > 0 if a stride is negative
        return ((position + 1) << _ARGUMENT_SHIFT) + _MIDDLE + first

    def load(self, pointers: Array, mask: Array, fill: Array) -> Array:
        """fill's copy with the elements at the live `pointers`; all three of one shape.

        The result has fill's dtype, which is the type that the kernel reads.
        """
        out = np.array(fill)
        flat = out.reshape(-1)
        for access in self._accesses("load", pointers, mask, out.dtype.itemsize):
            elements, index = _view(access, out.dtype)
            flat[access.lanes] = elements[index]
            if self.watch:
                self._note_read(access, out.dtype.itemsize)
        return out

    def store(self, pointers: Array, mask: Array, values: Array) -> None:
        """Write `values` to the live `pointers`; all three of one shape."""
        flat = np.ascontiguousarray(values).reshape(-1)
        for access in self._accesses("store", pointers, mask, values.dtype.itemsize):
            _require_writeable(access.argument)
            if self.watch:
                self._note_write(access, values.dtype.itemsize, atomic=False)
            elements, index = _view(access, values.dtype)
            elements[index] = flat[access.lanes]
            if self.watch:
                _check_lanes_agree(access, elements[index], flat[access.lanes])

    def addresses(self, pointers: Array, mask: Array, itemsize: int) -> Array:
        """[shape of pointers] addresses of the process for an atomic access, 0 in dead lanes."""
        out = np.zeros(pointers.shape, np.uint64)
        flat = out.reshape(-1)
        for access in self._accesses("atomic", pointers, mask, itemsize):
            _require_writeable(access.argument)
            if self.watch:
                self._note_write(access, itemsize, atomic=True)
            flat[access.lanes] = access.argument.start + access.offsets
        return out

    # --- Bounds ---

    def _accesses(self, kind: str, pointers: Array, mask: Array, itemsize: int) -> Iterator[Access]:
        lanes = np.flatnonzero(mask)
        if lanes.size == 0:
            return
        live = pointers.reshape(-1)[lanes]
        numbers = live >> np.uint64(_ARGUMENT_SHIFT)
        first = int(numbers[0])
        if (numbers == first).all():  # nearly always
            yield self._access(kind, first, live, lanes, itemsize)
            return
        for number in np.unique(numbers):
            own = numbers == number
            yield self._access(kind, int(number), live[own], lanes[own], itemsize)

    def _access(self, kind: str, number: int, live: Array, lanes: Array, itemsize: int) -> Access:
        if not 1 <= number <= len(self.arguments):
            raise AccessError(f"{kind} through a pointer to no argument in {_lanes(lanes)}")
        argument = self.arguments[number - 1]
        start = np.uint64((number << _ARGUMENT_SHIFT) + _MIDDLE)
        offsets = (live - start).view(np.int64)
        size = argument.raw.size
        bad = (offsets < 0) | (offsets + itemsize > size)
        if bad.any():
            raise AccessError(
                f"{kind} of {argument.name} out of bounds in {_lanes(lanes[bad])}: "
                f"{_elements(argument, offsets[bad])} of {_length(argument)}"
            )
        if ((argument.start + offsets) % itemsize).any():
            raise AccessError(f"{kind} of {argument.name} is not aligned to {itemsize} bytes")
        return Access(argument, lanes, offsets)

    # --- Races: nothing orders the programs of a launch ---

    def _note_read(self, access: Access, itemsize: int) -> None:
        region = access.argument.region
        units = _units(access, itemsize)
        writer = region.writer[units]
        others = (writer > _NOBODY) & (writer != self.program)
        if others.any():
            raise AccessError(
                f"load of {access.argument.name}: {self._at(access, others)} was stored by "
                f"program {self.program_id(int(writer[others][0]))} of the same launch"
            )
        reader = region.reader[units]
        alone = (reader == _NOBODY) | (reader == self.program)
        region.reader[units] = np.where(alone, self.program, _SEVERAL)

    def _note_write(self, access: Access, itemsize: int, atomic: bool) -> None:
        region, name = access.argument.region, access.argument.name
        units = _units(access, itemsize)
        writer, reader = region.writer[units], region.reader[units]
        allowed = _ATOMIC if atomic else _NOBODY
        others = (writer != _NOBODY) & (writer != self.program) & (writer != allowed)
        if others.any():
            raise AccessError(
                f"store to {name}: {self._at(access, others)} was stored by "
                f"{self._who(int(writer[others][0]))} too"
            )
        others = (reader != _NOBODY) & (reader != self.program)
        if others.any():
            raise AccessError(
                f"store to {name}: {self._at(access, others)} was loaded by "
                f"{self._who(int(reader[others][0]))} of the same launch"
            )
        region.writer[units] = _ATOMIC if atomic else self.program

    def _at(self, access: Access, chosen: Array) -> str:
        # `_units` repeats the lanes when an element spans several units, hence the modulo.
        lane = int(np.flatnonzero(chosen)[0]) % access.offsets.size
        return _elements(access.argument, access.offsets[lane : lane + 1])

    def _who(self, program: int) -> str:
        if program > 0:
            return f"program {self.program_id(program)}"
        return "an atomic" if program == _ATOMIC else "other programs"


def _units(access: Access, itemsize: int) -> Array:
    """The units that an access covers, first those of all lanes' first bytes."""
    region = access.argument.region
    first = access.offsets + access.argument.shift()
    units = first // region.unit
    # Arguments are aligned to their elements, so an element of one unit covers one unit.
    if itemsize <= region.unit:
        return units
    steps = range(0, itemsize, region.unit)
    return np.concatenate([(first + step) // region.unit for step in steps])


def _view(access: Access, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """The argument's bytes as `dtype`, and the index of each lane's element in them."""
    # Offsets from an aligned address, since a view may start off the access's own alignment.
    lead = -access.argument.start % dtype.itemsize
    raw = access.argument.raw[lead:]
    whole = raw.size // dtype.itemsize * dtype.itemsize
    return raw[:whole].view(dtype), (access.offsets - lead) // dtype.itemsize


def _check_lanes_agree(access: Access, stored: Array, values: Array) -> None:
    lost = stored.view(np.uint8) != np.ascontiguousarray(values).view(np.uint8)
    if lost.any():
        lane = int(np.flatnonzero(lost)[0]) // values.dtype.itemsize
        raise AccessError(
            f"store to {access.argument.name}: lanes of one program store different values to "
            f"{_elements(access.argument, access.offsets[lane : lane + 1])}"
        )


def _require_writeable(argument: Argument) -> None:
    if not argument.array.flags.writeable:
        raise AccessError(f"store to {argument.name}, which is read-only")


# --- Words ---


def _lanes(lanes: Array) -> str:
    first, last = int(lanes[0]), int(lanes[-1])
    which = f"lane {first}" if first == last else f"lanes {first} to {last}"
    return f"{lanes.size} lane{'s' * (lanes.size != 1)} ({which})"


def _elements(argument: Argument, offsets: Array) -> str:
    itemsize = argument.array.dtype.itemsize
    first, last = int(offsets.min()) // itemsize, int(offsets.max()) // itemsize
    return f"element {first}" if first == last else f"elements {first} to {last}"


def _length(argument: Argument) -> str:
    return f"{argument.raw.size // argument.array.dtype.itemsize}"


# --- Layout ---


def _arguments(names: Sequence[str], arrays: Sequence[Array]) -> list[Argument]:
    if any(a.ctypes.data % a.dtype.itemsize for a in arrays):
        raise ArgumentError("an array argument is not aligned to its element size")
    spans = [_span(array) for array in arrays]
    regions = _regions(arrays, spans)
    return [
        Argument(name, array, start, _raw(start, stop), region)
        for name, array, (start, stop), region in zip(names, arrays, spans, regions, strict=True)
    ]


def _span(array: Array) -> tuple[int, int]:
    """Addresses of the first byte and past the last byte of a strided array."""
    start = array.ctypes.data
    if array.size == 0:
        return start, start
    steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    stop = start + array.dtype.itemsize + sum(s for s in steps if s > 0)
    return start + sum(s for s in steps if s < 0), stop


def _regions(arrays: Sequence[Array], spans: Sequence[tuple[int, int]]) -> list[Region]:
    """The region of each array: arrays that overlap in memory share one."""
    groups: list[list[int]] = []
    stop = -1
    for i in sorted(range(len(arrays)), key=lambda i: spans[i]):
        if groups and spans[i][0] < stop:
            groups[-1].append(i)
        else:
            groups.append([i])
            stop = spans[i][1]
        stop = max(stop, spans[i][1])
    found: dict[int, Region] = {}
    for group in groups:
        unit = min(arrays[i].dtype.itemsize for i in group)
        start = min(spans[i][0] for i in group)
        region = Region(start, max(spans[i][1] for i in group), unit)
        found.update(dict.fromkeys(group, region))
    return [found[i] for i in range(len(arrays))]


def _raw(start: int, stop: int) -> npt.NDArray[np.uint8]:
    """The bytes from `start` to `stop` as an array; whoever holds it keeps their owner alive."""
    if start == stop:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_ubyte * (stop - start)).from_address(start))
