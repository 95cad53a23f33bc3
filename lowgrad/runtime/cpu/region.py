"""One node of a step as NumPy code: straight lines of calls that write into given arrays.

A body is cut into three parts: what comes before the loop, what is done for one chunk of rows at a
time (so that temporaries stay in cache), and what follows from sums over all rows. A small body is
not chunked at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.tile import Block, Tile
from lowgrad.ir.types import DType, dtype_of
from lowgrad.runtime.cpu import functions
from lowgrad.runtime.cpu.chunks import Chunks, chunking
from lowgrad.runtime.cpu.sums import added
from lowgrad.runtime.cpu.sums import between as between_sums

ALIGNMENT = 64
REDUCERS = {
    "sum": "add",
    "prod": "multiply",
    "max": "maximum",
    "min": "minimum",
    "any": "logical_or",
    "all": "logical_and",
}
FREE = frozenset(("reshape", "permute", "expand", "slice", "flip"))


@dataclass
class Slot:
    """A temporary: its name in the code, its place in the node's scratch, its type."""

    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: DType
    is_chunk: bool  # one a thread, for a chunk of rows
    logical: tuple[int, ...] = ()  # the shape of what it holds, all rows counted


@dataclass
class Code:
    """The lines of one node. `constants` are bound by name.

    whole_bytes: temporaries outside the loop; chunk_bytes: behind them, of a chunk in flight.
    """

    before: list[str] = field(default_factory=list)
    loop: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    chunks: Chunks | None = None
    whole_bytes: int = 0
    chunk_bytes: int = 0

    @property
    def scratch_bytes(self) -> int:
        """All temporaries of the node."""
        return self.whole_bytes + self.chunk_bytes * (self.chunks.threads if self.chunks else 0)


def wide(dtype: DType) -> DType:
    """The dtype that values of `dtype` have inside a region."""
    import numpy as np

    found = dtype_of(np.empty(0, dtype.wide))
    assert found is not None, "wide types are dtypes"
    return found


class Writer:
    """Writes the code of one body. `inputs` and `outputs` are the arrays' names in the step.

    over: outputs (by position) that are stored where an input (by position) is.
    between: names of arrays that hold what they hold as it is inside a region: 16-bit floats wide.
    """

    def __init__(
        self,
        body: Graph,
        inputs: Sequence[str],
        outputs: Sequence[str],
        over: dict[int, int],
        tag: str,
        between: frozenset[str] = frozenset(),
    ) -> None:
        self.body = body
        self.tag = tag
        self._over = {body.outputs[o]: body.inputs[i] for o, i in over.items()}
        self._maker = {v: n for n in body.nodes for v in n.outputs}
        self._sums = added(body, self._over)
        self._done = {*self._sums.values(), *between_sums(body, self._sums)}
        self.chunks = None if self._sums else self._chunking()
        self.code = Code(chunks=self.chunks)
        self.names: dict[Value, str] = dict(zip(body.inputs, inputs, strict=True))
        # The leading size that an array really has: 1 where a value is broadcast to more.
        self.lead: dict[Value, int] = {v: _lead(v) for v in body.inputs}
        self._between = between
        self.raw = {
            v
            for v, name in self.names.items()
            if v.type.dtype.is_low_precision and name not in between
        }
        self.targets: dict[Value, list[str]] = {}
        for value, name in zip(body.outputs, outputs, strict=True):
            self.targets.setdefault(value, []).append(name)
        for names in self.targets.values():
            names.sort(key=lambda name: name not in between)
        self._slot_of: dict[Value, Slot] = {}
        self._free: dict[Any, list[Slot]] = {}
        self._root: dict[Value, Value] = {}  # of views: the value whose bytes they are
        self._reads = self._count_reads()
        self._in_loop: dict[Value, str] = {}  # names inside the loop of values from before it
        self._wide: dict[tuple[Value, bool], str] = {}
        self._lines = self.code.before
        self._looping = False
        self._stores: list[tuple[list[str], str]] = []
        self._locals = 0

    def write(self) -> Code:
        """The whole body."""
        for node in self.body.nodes:
            self._enter(node)
            self._node(node)
        for value, targets in self.targets.items():
            if value not in self._maker or value in self._root:
                self._store_view(value, targets)
        for lines, line in self._stores:
            lines.append(line)
        return self.code

    def _chunking(self) -> Chunks | None:
        """The loop of the body, unless a later part would read what an earlier one overwrote."""
        chunks = chunking(self.body)
        if chunks is None:
            return None
        for new, old in self._over.items():
            written = self._part_written(new, chunks)
            readers = (n for n in self.body.nodes if any(self._origin(v) is old for v in n.inputs))
            if any(chunks.part(n) > written for n in readers if n.op.name not in FREE):
                return None
        return chunks

    def _part_written(self, value: Value, chunks: Chunks) -> int:
        maker = self._maker.get(value)
        if value in chunks.chunked:
            return 1
        return 2 if maker is None or maker.op.name in FREE else chunks.part(maker)

    def _enter(self, node: Node) -> None:
        chunks = self.chunks
        part = 0 if chunks is None else chunks.part(node)
        self._looping = part == 1
        self._lines = (self.code.before, self.code.loop, self.code.after)[part]

    def _is_chunked(self, value: Value) -> bool:
        return self.chunks is not None and value in self.chunks.chunked

    def _local(self, wish: str) -> str:
        self._locals += 1
        return f"{wish}{self.tag}_{self._locals}"

    # Scratch ----------------------------------------------------------------------------------

    def _count_reads(self) -> dict[Value, int]:
        reads: dict[Value, int] = {}
        for value in (*(v for n in self.body.nodes for v in n.inputs), *self.body.outputs):
            reads[value] = reads.get(value, 0) + 1
        return reads

    def _slot(self, shape: tuple[int, ...], dtype: DType, chunked: bool) -> Slot:
        free = self._free.get((shape, dtype, chunked))
        if free:
            return free.pop()
        rows = (self.chunks.rows, *shape[1:]) if chunked and self.chunks else shape
        nbytes = math.prod(rows) * dtype.itemsize
        at = self.code.chunk_bytes if chunked else self.code.whole_bytes
        if chunked:
            self.code.chunk_bytes = at + -(-nbytes // ALIGNMENT) * ALIGNMENT
        else:
            self.code.whole_bytes = at + -(-nbytes // ALIGNMENT) * ALIGNMENT
        slot = Slot(f"t{self.tag}_{len(self.code.slots)}", at, rows, dtype, chunked)
        slot.logical = shape
        self.code.slots.append(slot)
        return slot

    def _give_back(self, slot: Slot) -> None:
        self._free.setdefault((slot.logical, slot.dtype, slot.is_chunk), []).append(slot)

    def _release(self, value: Value) -> None:
        """One reader of `value` is done; its slot is free after the last."""
        root = self._root.get(value, value)
        self._reads[root] -= 1
        if self._reads[root] <= 0 and root in self._slot_of:
            slot = self._slot_of.pop(root)
            # What is read in the loop is read once a chunk: slots from before it stay taken.
            if slot.is_chunk or self.chunks is None:
                self._give_back(slot)

    @staticmethod
    def _array_of(slot: Slot) -> str:
        return f"{slot.name}[:n]" if slot.is_chunk else slot.name

    # Operands and results -----------------------------------------------------------------------

    def _operand(self, value: Value) -> str:
        """The name of `value` here: in the loop the rows of this chunk; 16-bit floats widened."""
        name = self.names[value]
        if _is_literal(name):
            return name
        if self._looping and not self._is_chunked(value):
            name = self._rows_of(value)
        root = self._root.get(value, value)
        if root not in self.raw:
            return name
        key = (value, self._looping)
        if key not in self._wide:
            slot = self._slot(value.type.shape, wide(value.type.dtype), self._looping)
            self._lines.append(f"copyto({self._array_of(slot)}, {name})")
            self._wide[key] = self._array_of(slot)
        return self._wide[key]

    def _rows_of(self, value: Value) -> str:
        if self.chunks is None or self.lead[value] != self.chunks.size:
            return self.names[value]
        if value not in self._in_loop:
            local = self._local("r")
            self.code.loop.append(f"{local} = {self.names[value]}[lo:hi]")
            self._in_loop[value] = local
        return self._in_loop[value]

    def _whole(self, value: Value) -> str:
        """Like `_operand`, with all elements there: nothing is left to broadcasting."""
        name = self._operand(value)
        if not (_is_literal(name) or value in self._lazy):
            return name
        shape = value.type.shape
        if self._looping:
            return f"broadcast_to({name}, (n, {''.join(f'{s}, ' for s in shape[1:])}))"
        return f"broadcast_to({name}, {shape!r})"

    @cached_property
    def _lazy(self) -> set[Value]:
        """Values that are left to NumPy's broadcasting, and views of them."""
        found: set[Value] = set()
        for node in self.body.nodes:
            if node.op.name in ("expand", "iota") or (
                node.op.name in FREE and node.inputs[0] in found
            ):
                found.add(node.output)
        return found

    def _result(
        self, value: Value, reusable: Sequence[Value] = (), kept: Sequence[Value] = ()
    ) -> str:
        """Where to write `value`: its output array, a dying slot of `reusable`, or a new one.

        kept: operands that are read after the first write.
        """
        chunked = self._is_chunked(value)
        targets = self.targets.get(value, [])
        holds = targets and (not value.type.dtype.is_low_precision or targets[0] in self._between)
        if holds and self._may_write(value, kept):
            return self._target(targets, chunked)
        slot = self._dying(value, reusable, chunked)
        if slot is None:
            slot = self._slot(value.type.shape, wide(value.type.dtype), chunked)
        self._slot_of[value] = slot
        name = self._array_of(slot)
        for target in targets:  # `targets` are readers too, so the slot stays taken
            self._store(f"{target}[lo:hi]" if chunked else target, name)
        return name

    def _target(self, targets: list[str], chunked: bool) -> str:
        first = targets[0]
        if chunked:
            local = self._local("o")
            self.code.loop.append(f"{local} = {first}[lo:hi]")
            first = local
        for other in targets[1:]:
            self._store(f"{other}[lo:hi]" if chunked else other, first)
        return first

    def _store(self, target: str, name: str) -> None:
        """Copy to an output at the end of this part: an old state there may still be read."""
        self._stores.append((self._lines, f"copyto({target}, {name}, 'unsafe')"))

    def _dying(self, value: Value, reusable: Sequence[Value], chunked: bool) -> Slot | None:
        for operand in reusable:
            root = self._root.get(operand, operand)
            slot = self._slot_of.get(root)
            if slot is None or self._reads[root] != 1 or slot.is_chunk != chunked:
                continue
            same = root.type.shape == operand.type.shape == value.type.shape
            if same and slot.dtype is wide(value.type.dtype) and operand not in self._lazy:
                return self._slot_of.pop(root)
        return None

    def _may_write(self, value: Value, kept: Sequence[Value]) -> bool:
        """Whether nobody reads the old state after `value` was written where that is."""
        old = self._over.get(value)
        if old is None:
            return True
        if any(self._origin(v) is old for v in kept):
            return False
        nodes = self.body.nodes
        at = nodes.index(self._maker[value])
        return not any(self._origin(v) is old for node in nodes[at + 1 :] for v in node.inputs)

    def _origin(self, value: Value) -> Value:
        while value in self._maker and self._maker[value].op.name in FREE:
            value = self._maker[value].inputs[0]
        return value

    def _store_view(self, value: Value, targets: list[str]) -> None:
        """Outputs that are inputs or views: nothing computes them, so they are copied."""
        chunked = self._is_chunked(value)
        self._looping = chunked
        self._lines = self.code.loop if chunked else self.code.after
        if self.chunks is None:
            self._lines = self.code.before
        for target in targets:
            name = self._whole(value)
            self._store(f"{target}[lo:hi]" if chunked else target, name)

    # Nodes --------------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        if node in self._done:
            return
        if node.op.name in FREE and not self._copies(node):
            self._view(node)
        elif node.op.name == "full":
            self._constant(node)
        else:
            self._compute(node)
            for value in node.inputs:
                self._release(value)

    def _compute(self, node: Node) -> None:
        if node.op.family == "pointwise":
            self._pointwise(node)
        elif node.op.name == "reshape":
            self._copied_reshape(node)
        elif node.op.name == "pad":
            self._pad(node)
        elif node.op.name == "cat" and not (self._looping and node.attrs["dim"] == 0):
            self._cat(node)
        elif node.op.name in REDUCERS:
            self._reduction(node)
        elif node.op.name == "iota" and not (
            node.output in self.targets and self._is_chunked(node.output)
        ):
            self._iota(node)
        elif node.op.name == "matmul":
            a, b = (self._whole(v) for v in node.inputs)
            if node in self._sums:
                self._added(node, a, b)
                return
            self._made(node.output, self._result(node.output), "matmul({}, {}, {})", a, b)
        else:
            self._fallback(node)

    def _added(self, node: Node, a: str, b: str) -> None:
        """Add the product to the old value, which lies where the new one will."""
        value = self._sums[node].output
        out, *others = self.targets[value]
        self._lines.append(f"add_product({a}, {b}, {out}.reshape({node.output.type.shape!r}))")
        for other in others:
            self._store(other, out)
        self.names[value] = out
        self.lead[value] = _lead(value)

    def _made(self, value: Value, out: str, form: str, *operands: str) -> None:
        self._lines.append(form.format(*operands, out))
        self.names[value] = out
        self.lead[value] = _lead(value)

    def _constant(self, node: Node) -> None:
        value = node.output
        self.names[value] = _literal(node.attrs["value"])
        self.lead[value] = 0
        if value in self.targets:
            for target in self.targets[value]:
                self._store(target, self.names[value])

    def _view(self, node: Node) -> None:
        source, value = node.inputs[0], node.output
        root = self._root[value] = self._root.get(source, source)
        # Who reads the view reads its source, in place of the view itself.
        self._reads[root] = self._reads.get(root, 0) - 1 + self._reads.get(value, 0)
        name = self.names[source]
        self.lead[value] = self.lead[source]
        if not _is_literal(name):
            expression = self._view_of(node, name)
            if expression != name:
                name = self._local("w")
                self._lines.append(f"{name} = {expression}")
        self.names[value] = name

    def _view_of(self, node: Node, name: str) -> str:
        op, attrs = node.op.name, node.attrs
        source, value = node.inputs[0], node.output
        if op == "expand":
            return name  # NumPy broadcasts operands by itself
        if source in self._lazy and op != "reshape":
            name = self._whole(source)
        self.lead[value] = _lead(value)
        if op == "permute":
            return f"{name}.transpose{tuple(attrs['dims'])!r}" if attrs["dims"] else name
        if op == "reshape":
            return self._reshaped(source, value, name)
        if not value.type.shape:
            return name  # all that these views can do to a single element
        if op == "flip":
            parts = ["::-1" if d in attrs["dims"] else ":" for d in range(value.type.ndim)]
            return f"{name}[{', '.join(parts)}]"
        bounds = zip(attrs["starts"], attrs["stops"], attrs["steps"], strict=True)
        return f"{name}[{', '.join(f'{a}:{b}:{c}' for a, b, c in bounds)}]"

    def _reshaped(self, source: Value, value: Value, name: str) -> str:
        if source in self._lazy:
            name = self._whole(source)
        sizes = [str(s) for s in value.type.shape]
        if self._is_chunked(value):
            sizes[0] = "n"
        return f"{name}.reshape(({''.join(f'{s}, ' for s in sizes)}))"

    def _copies(self, node: Node) -> bool:
        """Whether this is a reshape of what views have left in another order than row-major.

        An output is copied anyway, whatever the order of an input may be.
        """
        if node.op.name != "reshape" or node.inputs[0] in self._lazy:
            return False
        if node.output in self.targets and not _is_literal(self.names[node.inputs[0]]):
            return True
        strided = _strides_only(node.inputs[0], self._maker)
        return _without_copy(strided, node.output.type.shape) is None

    def _copied_reshape(self, node: Node) -> None:
        """NumPy would copy it to memory of its own, which no plan knows of."""
        source, value = node.inputs[0], node.output
        name, out = self._operand(source), self._result(value)
        sizes = [str(n) for n in source.type.shape]
        if self._is_chunked(value):
            sizes[0] = "n"
        shape = "".join(f"{n}, " for n in sizes)
        self._lines.append(f"copyto({out}.reshape(({shape})), {name}, 'unsafe')")
        self.names[value] = out
        self.lead[value] = _lead(value)

    def _pad(self, node: Node) -> None:
        """Fill it, then copy into the window; a negative padding is left to the op itself."""
        low, high = node.attrs["low"], node.attrs["high"]
        if min((*low, *high), default=0) < 0 or not low or (self._looping and low[0] + high[0]):
            self._fallback(node)
            return
        source, value = node.inputs[0], node.output
        name, out = self._whole(source), self._result(value)
        bounds = zip(low, source.type.shape, strict=True)
        window = [
            ":" if not a and n == m else f"{a}:{a + n}"
            for (a, n), m in zip(bounds, value.type.shape, strict=True)
        ]
        self._lines.append(f"copyto({out}, {_literal(node.attrs['value'])}, 'unsafe')")
        self._lines.append(f"copyto({out}[{', '.join(window)}], {name}, 'unsafe')")
        self.names[value] = out
        self.lead[value] = _lead(value)

    def _cat(self, node: Node) -> None:
        """Each part to its place."""
        value, dim = node.output, node.attrs["dim"]
        parts = [self._whole(v) for v in node.inputs]
        out, start = self._result(value), 0
        for part, source in zip(parts, node.inputs, strict=True):
            stop = start + source.type.shape[dim]
            window = [":"] * dim + [f"{start}:{stop}"]
            self._lines.append(f"copyto({out}[{', '.join(window)}], {part}, 'unsafe')")
            start = stop
        self.names[value] = out
        self.lead[value] = _lead(value)

    def _pointwise(self, node: Node) -> None:
        value = node.output
        block = Block()
        operands = [Tile(block, self._operand(v), wide(v.type.dtype)) for v in node.inputs]
        result = node.op.emit(*operands, **node.attrs)
        if not block.lets:  # the op is the identity here
            self._made(value, self._result(value), "copyto({1}, {0}, 'unsafe')", result.name)
            return
        reusable = self._reusable(node, block)
        out = self._result(value, reusable, [v for v in node.inputs if v not in reusable])
        names: dict[str, str] = {}
        temporaries: list[Slot] = []
        for let in block.lets:
            target = out
            if let is not block.lets[-1]:
                chunked = self._is_chunked(value)
                slot = self._slot(value.type.shape, wide(let.dtype), chunked)
                temporaries.append(slot)
                target = self._array_of(slot)
            args = tuple(names.get(a, a) if isinstance(a, str) else _literal(a) for a in let.args)
            names[let.name] = target
            self._lines += functions.lines(let.fn, target, args, let.dtype)
        for slot in temporaries:
            self._give_back(slot)
        self.names[value] = out
        self.lead[value] = _lead(value)
        if node.op.name == "cast" and value.type.dtype.is_low_precision:
            self._lines.append(f"{out}[...] = {out}.astype({value.type.dtype.name})")

    def _reusable(self, node: Node, block: Block) -> list[Value]:
        """Operands that the result may be written over: it is written after they were read."""
        if len(block.lets) > 1:
            return []
        if block.lets[0].fn == "where":
            condition, a, b = node.inputs
            return [] if b in (condition, a) else [b]
        return [] if block.lets[0].fn in functions.KEEPS_OPERANDS else list(node.inputs)

    def _reduction(self, node: Node) -> None:
        reducer = REDUCERS[node.op.name]
        dims = tuple(node.attrs["dims"])
        axis = dims[0] if len(dims) == 1 else dims
        source = self._whole(node.inputs[0])
        value = node.output
        if self.chunks is None or node not in self.chunks.partial:
            form = f"{reducer}.reduce({{}}, {axis}, None, {{}}, True)"
            self._made(value, self._result(value), form, source)
            return
        # A reduction over the rows too: one partial result a chunk, combined in order after.
        shape = (self.chunks.count, *value.type.shape[1:])
        slot = self._slot(shape, wide(value.type.dtype), False)
        self.code.loop.append(
            f"{reducer}.reduce({source}, {axis}, None, {slot.name}[k : k + 1], True)"
        )
        self._looping, self._lines = False, self.code.after
        self._made(value, self._result(value), f"{reducer}.reduce({{}}, 0, None, {{}}, True)",
                   slot.name)  # fmt: skip

    def _iota(self, node: Node) -> None:
        """Numbers along one dim; the others are left to broadcasting."""
        value, dim = node.output, node.attrs["dim"]
        sizes = tuple(n if d == dim else 1 for d, n in enumerate(value.type.shape))
        slot = self._slot(sizes, wide(value.type.dtype), False)
        key = f"iota{self.tag}_{len(self.code.constants)}"
        self.code.constants[key] = _caller(node, {**node.attrs, "shape": sizes})
        self._made(value, slot.name, f"{key}(({{}}, ))")
        self.lead[value] = sizes[0] if sizes else 0
        for target in self.targets.get(value, ()):
            self._store(target, slot.name)

    def _fallback(self, node: Node) -> None:
        """An op without lines of its own: its meaning, copied to where the result belongs."""
        key = f"{node.op.name}{self.tag}_{len(self.code.constants)}"
        self.code.constants[key] = _caller(node, dict(node.attrs))
        operands = "".join(f", {self._whole(v)}" for v in node.inputs)
        names = [self._result(v) for v in node.outputs]
        self._lines.append(f"{key}(({''.join(f'{n}, ' for n in names)}){operands})")
        for value, name in zip(node.outputs, names, strict=True):
            self.names[value] = name
            self.lead[value] = _lead(value)


def _strides_only(value: Value, maker: Mapping[Value, Node]) -> Any:
    """An array of the shape and strides that `value` has after the views that lead to it.

    It has no memory behind it: nobody may read it.
    """
    import numpy as np

    node = maker.get(value)
    if node is None or node.op.name not in FREE:
        shape = value.type.shape
        strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
        return np.lib.stride_tricks.as_strided(np.empty(1, np.int8), shape, strides)
    before = _strides_only(node.inputs[0], maker)
    if node.op.name != "reshape":
        return node.op.evaluate(before, **node.attrs)
    found = _without_copy(before, value.type.shape)
    return _strides_only(value, {}) if found is None else found


def _without_copy(array: Any, shape: tuple[int, ...]) -> Any:
    """`array` as `shape` if that is a view, else None."""
    seen = array.view()
    try:
        seen.shape = shape
    except AttributeError:
        return None
    return seen


def _lead(value: Value) -> int:
    return value.type.shape[0] if value.type.shape else 0


def _caller(node: Node, attrs: dict[str, Any]) -> Any:
    import numpy as np

    from lowgrad.errors import IndexOutOfRange

    op, loc = node.op, node.loc
    into = getattr(op, "evaluate_into", None)  # of ops whose results are large

    def call(outs: tuple[Any, ...], *arrays: Any) -> None:
        try:
            if into is not None and outs[0].dtype == arrays[0].dtype:
                into(outs[0], *arrays, **attrs)
                return
            result = op.evaluate(*arrays, **attrs)
        except IndexOutOfRange as error:
            raise IndexOutOfRange(error.message, at="" if loc is None else str(loc)) from None
        results = result if isinstance(result, tuple) else (result,)
        for out, array in zip(outs, results, strict=True):
            np.copyto(out, array, casting="unsafe")

    call.__name__ = op.name
    return call


def _literal(value: Any) -> str:
    if isinstance(value, float):
        if value != value:
            return "nan"
        if value in (float("inf"), float("-inf")):
            return "inf" if value > 0 else "-inf"
    return repr(value)


def _is_literal(name: str) -> bool:
    return name[0] in "-0123456789" or name in ("True", "False", "nan", "inf")
