"""Pulling values: what a graph's value is at a symbolic index, written down as statements.

Views, concatenations and gathers become index maps and masks on the way to the inputs, so a region
loads each element where it is and stores nothing in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lowgrad.codegen.body import Body, sanitized
from lowgrad.codegen.kernel import Bound, Load, Param
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import INT32_LIMIT, Index, Symbol, as_index, flatten, holds
from lowgrad.ir.tile import Literal, Tile
from lowgrad.ir.types import DType, Shape, TensorType, bool_, float64, int32, int64
from lowgrad.ops.pointwise.base import Pointwise
from lowgrad.ops.random import UNIFORM_BITS

At = tuple[Index, ...]
Pulled = Tile | Literal


class Request(NamedTuple):
    """A value, at an index, in lanes where all `guards` (names of tests) hold.

    raw: 16-bit floats stay as they are, for a value that is moved, not computed.
    """

    value: Value
    at: At
    guards: tuple[str, ...] = ()
    raw: bool = False


Steps = Generator[Request, Pulled, Pulled]

# Longest table that is written into a kernel as a chain of choices.
LONGEST_LITERAL = 256


@dataclass
class Reader:
    """Values of one region in one kernel.

    given: results that a skeleton has made (of a reduction, of the dot), as a function of the
    index they are read at.  other: what masked lanes of a load read, if a skeleton cares.
    """

    body: Body
    producers: Mapping[Value, Node]
    inputs: Mapping[Value, Param]
    given: dict[Value, Callable[[At], Pulled]] = field(default_factory=dict)
    other: Literal | None = None

    def value(
        self, value: Value, at: At, guards: tuple[str, ...] = (), raw: bool = False
    ) -> Pulled:
        """The tile of `value` at index `at`, or a number if it is the same everywhere."""
        # A stack of generators instead of recursion: regions may be thousands of nodes deep.
        stack = [self._steps(Request(value, at, guards, raw))]
        answer: Any = None
        while stack:
            try:
                request = stack[-1].send(answer)
            except StopIteration as done:
                stack.pop()
                answer = done.value
            else:
                answer = None
                stack.append(self._steps(request))
        result: Pulled = answer
        return result

    def tile(self, value: Value, at: At) -> Tile:
        """`value` at index `at`, as a tile even if it is a number."""
        return self.as_tile(self.value(value, at), value.type.dtype)

    def as_tile(self, pulled: Pulled, dtype: DType) -> Tile:
        """A number as a tile, which knows its dtype."""
        if isinstance(pulled, Tile):
            return pulled
        key = ("number", type(pulled), str(pulled), dtype)
        if (tile := self.body.known(key)) is None:
            tile = self.body.fill(pulled, dtype, name="constant")
            self.body.remember(key, tile)
        assert isinstance(tile, Tile)
        return tile

    def _steps(self, request: Request) -> Steps:
        if (known := self.body.known(request)) is not None:
            return known
        result = yield from self._make(request)
        self.body.remember(request, result)
        return result

    def _make(self, request: Request) -> Steps:
        value, at = request.value, request.at
        if (given := self.given.get(value)) is not None:
            return given(at)
        if value in self.inputs:
            return self._load(request)
        node = self.producers[value]
        family = node.op.family
        if family == "view":
            return (yield from self._view(node, request))
        if family == "indexing" and node.op.name in ("take", "gather"):
            return (yield from self._gather(node, request))
        if family == "pointwise":
            return (yield from self._pointwise(node, request))
        if family == "create":
            return self._created(node, at)
        if family == "random":
            return (yield from self._random(node, request))
        raise CompileError(
            f"{node.op.name} cannot be computed element by element, as this region needs it",
            at=str(node.loc or ""),
        )

    def _name(self, node: Node) -> None:
        """Let the next statements be called after `node` and come from its line."""
        self.body.wish = sanitized(node.outputs[0].hint) or node.op.name
        self.body.loc = node.loc

    # --- Loads ---

    def _load(self, request: Request) -> Tile:
        param = self.inputs[request.value]
        at = flatten(request.at, request.value.type.shape)
        guards = self._needed_guards(request, at)
        masks = (*self.body.masks_of(at), *guards)
        shape: tuple[str, ...] = ()
        lanes = self.body.lanes_of(at)
        if not self.body.lanes_of(*guards) <= lanes:
            shape = self._shape_of(lanes | self.body.lanes_of(*guards))
        self.body.loc = None
        dtype = param.type.dtype
        name = param.name.removesuffix("_ptr")
        other = self.other if masks else None
        load = Load(name, param.name, at, masks, dtype, other, not request.raw, shape)
        return self.body.load(load, dtype)

    def _needed_guards(self, request: Request, at: Index) -> tuple[str, ...]:
        """The guards to load under: all, or none where all elements exist and no lane is saved."""
        lanes = self.body.lanes_of(at)
        is_safe = all(
            holds(i, 0, n) for i, n in zip(request.at, request.value.type.shape, strict=True)
        ) and not any(self._is_loaded(s) for s in at.symbols)
        guards = tuple(dict.fromkeys(request.guards))
        if is_safe and not self.body.lanes_of(*guards) <= lanes:
            return ()
        return guards

    def _is_loaded(self, symbol: str) -> bool:
        return bool(self.body.known(("loaded", symbol)))

    def _shape_of(self, lanes: frozenset[str]) -> tuple[str, ...]:
        """The constants of `lanes`, in the order of a tile's axes."""
        used = [self.body.lanes[name] for name in lanes]
        axes = {lane.axis: lane.constant for lane in used}
        return tuple(axes.get(a, "1") for a in range(max(axes, default=-1) + 1))

    # --- Families ---

    def _pointwise(self, node: Node, request: Request) -> Steps:
        args: list[Pulled] = []
        for value in node.inputs:
            args.append((yield Request(value, request.at, request.guards)))
        if (known := _folded(node, args)) is not None:
            return known
        self._name(node)
        result: Tile = node.op.emit(*self._operands(node, args), **node.attrs)
        return Tile(self.body, result.name, node.output.type.dtype)

    def _operands(self, node: Node, args: list[Pulled]) -> list[Pulled]:
        """`args`, with those numbers as tiles that stand where a type must be known."""
        must = range(len(args)) if len(args) == 1 else []
        if node.op.name == "where":
            must = [0] if any(isinstance(a, Tile) for a in args[1:]) else [0, 1]
        elif not any(isinstance(a, Tile) for a in args):
            must = [0]
        dtypes = [v.type.dtype for v in node.inputs]
        # Triton takes no bool literal for a number's neighbour, nor floats for functions of two.
        must = [*must, *(i for i, d in enumerate(dtypes) if d is bool_)]
        if node.op.name in ("floordiv", "mod", "pow") and not _is_square(node, args):
            must = [*range(len(args))]
        return [
            self.as_tile(a, d) if i in must else a
            for i, (a, d) in enumerate(zip(args, dtypes, strict=True))
        ]

    def _created(self, node: Node, at: At) -> Pulled:
        self._name(node)
        attrs = node.attrs
        dtype: DType = attrs["dtype"]
        if node.op.name == "full":
            return _number(attrs["value"], dtype)
        if node.op.name == "iota":
            place = at[attrs["dim"]]
            if place.is_constant:
                return _number(place.constant, dtype)
            return self.body.position(place, dtype)
        return self._chosen(attrs["data"], flatten(at, attrs["shape"]), dtype)

    def _chosen(self, data: tuple[Literal, ...], flat: Index, dtype: DType) -> Pulled:
        """data[flat]."""
        if flat.is_constant:
            return _number(data[flat.constant], dtype)
        if len(data) > LONGEST_LITERAL:
            raise CompileError(f"a literal of {len(data)} elements is too long for a kernel")
        place = self.body.position(flat, int64)
        result = self.as_tile(_number(data[0], dtype), dtype)
        for i, number in enumerate(data[1:], start=1):
            here = self.body.let("eq", place, i, dtype=bool_)
            chosen = self.as_tile(_number(number, dtype), dtype)
            result = self.body.let("where", here, chosen, result, dtype=dtype)
        return result

    def _view(self, node: Node, request: Request) -> Steps:
        if hasattr(node.op, "pieces"):
            return (yield from self._patchwork(node, request))
        (source,) = node.inputs
        at = node.op.index(request.at, source.type, node.output.type, **node.attrs)  # type: ignore[attr-defined]
        return (yield request._replace(value=source, at=tuple(as_index(i) for i in at)))

    def _patchwork(self, node: Node, request: Request) -> Steps:
        types = tuple(v.type for v in node.inputs)
        pieces = node.op.pieces(request.at, types, node.output.type, **node.attrs)  # type: ignore[attr-defined]
        choices: list[tuple[str, Pulled]] = []
        dtype = node.output.type.dtype
        rest: Pulled = _number(node.attrs.get("value", 0), dtype)
        for source, at, bounds in pieces:
            held = [holds(as_index(b.expr), b.low, b.high) for b in bounds]
            if False in held or 0 in node.inputs[source].type.shape:
                continue
            self._name(node)
            needed = [b for b, h in zip(bounds, held, strict=True) if h is None]
            guards = request.guards
            if needed:
                test = self.body.test(tuple(_bound(*b) for b in needed))
                guards = (*guards, test)
            places = tuple(as_index(i) for i in at)
            pulled = yield request._replace(value=node.inputs[source], at=places, guards=guards)
            if not needed:
                rest = pulled
                break
            choices.append((test, pulled))
        return self._first_that_holds(node, choices, rest, dtype)

    def _first_that_holds(
        self, node: Node, choices: list[tuple[str, Pulled]], rest: Pulled, dtype: DType
    ) -> Pulled:
        if node.op.name == "cat" and choices:
            # Every element is in some piece, so the last one needs no test.
            rest = choices.pop()[1]
        self._name(node)
        for test, pulled in reversed(choices):
            if not isinstance(rest, Tile) and not isinstance(pulled, Tile):
                rest = self.as_tile(rest, dtype)
            rest = self.body.let("where", Tile(self.body, test, bool_), pulled, rest, dtype=dtype)
        return rest

    def _gather(self, node: Node, request: Request) -> Steps:
        x, index = node.inputs
        dim: int = node.attrs["dim"]
        at = request.at
        after = 1 if node.op.name == "gather" else index.type.ndim
        at_index = at if node.op.name == "gather" else at[dim : dim + after]
        pulled = yield Request(index, at_index, request.guards)
        place, guards = self._place(pulled, x.type, dim, request.guards)
        inner = (*at[:dim], place, *at[dim + after :])
        self._name(node)
        return (yield request._replace(value=x, at=inner, guards=guards))

    def _place(
        self, index: Pulled, type_: TensorType, dim: int, guards: tuple[str, ...]
    ) -> tuple[Index, tuple[str, ...]]:
        """A loaded index as an Index, and the guards that keep a wrong one from being followed.

        The interpreter raises on a wrong index; a kernel cannot, and reads 0 instead.
        """
        if not isinstance(index, Tile):
            return as_index(int(index)), guards
        size = type_.shape[dim]
        if index.dtype is int32 and type_.numel >= INT32_LIMIT:
            index = self.body.let("cast", index, dtype=int64)
        place = Index(((Symbol(index.name, max(size, 2)), 1),), 0)
        self.body.remember(("loaded", index.name), True)
        test = self.body.test((Bound(place, 0, size),), name="in_range")
        return place, (*guards, test)

    def _random(self, node: Node, request: Request) -> Steps:
        key, *starts = node.inputs
        start = (yield Request(starts[0], ())) if starts else None
        seed = yield Request(key, (as_index(0),))
        counter = yield Request(key, (as_index(1),))
        self._name(node)
        body = self.body
        dtype = node.output.type.dtype
        seed, counter = self.as_tile(seed, int64), self.as_tile(counter, int64)
        if offset := node.attrs["offset"]:
            counter = body.let("add", counter, offset, dtype=int64, name="counter")
        whole = _whole_shape(node)
        flat = flatten(request.at, whole)
        body.wish = "place"
        place = body.position(flat, int64) if flat.terms else self.as_tile(flat.constant, int64)
        if start is not None:
            stride = math.prod(whole[node.attrs["dim"] + 1 :])
            skipped = body.let("mul", self.as_tile(start, int64), stride, dtype=int64)
            place = body.let("add", place, skipped, dtype=int64)
        self._name(node)
        if node.op.name.startswith("random_bits"):
            return body.let("random_bits", seed, counter, place, dtype=dtype)
        if dtype is float64:
            return body.let("uniform64", seed, counter, place, dtype=dtype)
        return body.let("uniform", seed, counter, place, UNIFORM_BITS[dtype], dtype=dtype)


def _whole_shape(node: Node) -> Shape:
    """The shape of the array whose numbers a random node makes, or of which it makes a part."""
    shape, dim = node.attrs["shape"], node.attrs.get("dim")
    return shape if dim is None else (*shape[:dim], node.attrs["size"], *shape[dim + 1 :])


def _bound(expr: Index | int, low: int, high: int) -> Bound:
    """The condition low <= expr < high, without the side that always holds."""
    expr = as_index(expr)
    least, greatest = expr.bounds
    return Bound(expr, None if low <= least else low, None if greatest < high else high)


def _is_square(node: Node, args: list[Pulled]) -> bool:
    """Whether this is x to the 2nd or 3rd: products, exact where a general power is not."""
    return node.op.name == "pow" and isinstance(args[0], Tile) and args[1] in (2, 3)


def _folded(node: Node, args: list[Pulled]) -> Pulled | None:
    """The result of `node` where it is one of its operands, or a bool of what is known."""
    op = node.op
    assert isinstance(op, Pointwise), "the pointwise ops are of their family"
    literals = [None if isinstance(a, Tile) else a for a in args]
    if (i := op.same_as(*literals)) is not None:
        return args[i]
    if None in literals or node.output.type.dtype is not bool_:
        return None
    return bool(op.known(*literals, **node.attrs))


def _number(value: Literal, dtype: DType) -> Literal:
    if dtype is bool_:
        return bool(value)
    return float(value) if dtype.is_floating_point else int(value)
