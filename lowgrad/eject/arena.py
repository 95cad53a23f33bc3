"""What an ejected step calls the places of its arena."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lowgrad.codegen.cuda.schedule import KernelCall
from lowgrad.codegen.kernel import Param
from lowgrad.eject.names import Names
from lowgrad.eject.rolled import Roll, addresses_of
from lowgrad.ir.graph import Location, Value
from lowgrad.ir.types import DType, TensorType, uint8

# What a value is called only if nothing better is known of it.
VAGUE = frozenset(("input", "full"))

Key = tuple[int, DType, int]


@dataclass
class Buffer:
    """A place of the arena with what lies there: the same one if an op writes over its operand.

    name: by the last op that writes it, as an accumulator is called by what it adds up.
    """

    offset: int
    type: TensorType
    loc: Location | None
    name: str = ""
    is_used: bool = False


class Arena:
    """The buffers that the calls of a step use."""

    def __init__(self, rolls: Iterable[Roll], wishes: Mapping[Value, str], names: Names) -> None:
        self._by_key: dict[Key, Buffer] = {}
        wished: dict[Key, str] = {}
        for roll in rolls:
            for call, strides in zip(roll.calls, roll.strides, strict=True):
                params = call.kernel.params if isinstance(call, KernelCall) else (None, None)
                for param, at, step in zip(params, addresses_of(call), strides, strict=True):
                    if at.base.kind != "arena":
                        continue
                    key = self._key(at.offset, param, step)
                    loc = call.loc if isinstance(call, KernelCall) else None
                    type_ = param.type if param is not None else TensorType((key[2],), uint8)
                    self._by_key.setdefault(key, Buffer(at.offset, type_, loc))
                    wish = "packed" if param is None else _wish(param, wishes)
                    if wish not in VAGUE or key not in wished:
                        wished[key] = wish
        for key, buffer in self._by_key.items():
            buffer.name = names.fresh(wished[key])

    @property
    def buffers(self) -> list[Buffer]:
        """Those that `at` has given, in the order in which they are used first."""
        return [b for b in self._by_key.values() if b.is_used]

    def at(self, offset: int, param: Param | None, step: int) -> Buffer:
        """The buffer that a param at `offset` is, or begins in."""
        found = self._by_key[self._key(offset, param, step)]
        found.is_used = True
        return found

    def _key(self, offset: int, param: Param | None, step: int) -> Key:
        """What makes two uses the same buffer: where it is, and how large.

        A part that goes on with the pieces of a loop (`step`), or a copy of bytes, is of the buffer
        that begins there.
        """
        if param is not None and not step:
            return offset, param.type.dtype, param.type.nbytes
        there = [key for key in self._by_key if key[0] == offset]
        if param is not None:
            there = [key for key in there if key[1] is param.type.dtype]
        if there:
            return there[-1]
        return (
            (offset, uint8, 1) if param is None else (offset, param.type.dtype, param.type.nbytes)
        )


def _wish(param: Param, wishes: Mapping[Value, str]) -> str:
    return wishes.get(param.value) or param.value.hint or "full"
