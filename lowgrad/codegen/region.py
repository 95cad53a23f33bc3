"""A region: the nodes that one kernel (or two) computes, whether fused or a single op's."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lowgrad.codegen.body import Body, sanitized
from lowgrad.codegen.kernel import Kernel, Load, LoadBox, Param, Store, walk
from lowgrad.codegen.reader import At, Reader
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import flatten, unflatten
from lowgrad.ir.types import Shape, TensorType

# Ops that say nothing about what a kernel is for.
DULL = frozenset(("reshape", "permute", "expand", "full", "iota", "cast", "stop_gradient"))
LONGEST_NAME = 48


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes with the params they read and write, by the body's own values.

    outputs: (the body's value, its param); one value may be stored twice.
    """

    name: str
    node: Node
    nodes: tuple[Node, ...]
    inputs: Mapping[Value, Param]
    outputs: tuple[tuple[Value, Param], ...]

    @property
    def producers(self) -> dict[Value, Node]:
        """The node that makes each value of the body."""
        return {v: n for n in self.nodes for v in n.outputs}

    def body(self, more: tuple[Param, ...] = ()) -> Body:
        """An empty kernel body in which the params' names are taken."""
        params = [*self.inputs.values(), *(p for _, p in self.outputs), *more]
        names = dict.fromkeys(p.name for p in params)
        return Body([self.name, *names, *CONSTANTS])

    def reader(self, body: Body) -> Reader:
        """Pulls the region's values into `body`."""
        return Reader(body, self.producers, self.inputs)

    def kernel(
        self,
        body: Body,
        constants: Mapping[str, int],
        grid: int,
        num_warps: int,
        num_stages: int = 1,
        more: tuple[Param, ...] = (),
        suffix: str = "",
        *,
        in_slices: bool = False,
    ) -> Kernel:
        """The kernel whose statements `body` holds; params that it does not touch are left out.

        in_slices: whether loads and stores at different places are of different lanes.
        """
        statements = body.finished()
        touched = {s.param for s in walk(statements) if isinstance(s, Load | LoadBox | Store)}
        params = [*self.inputs.values(), *more, *(p for _, p in self.outputs)]
        kept = {p.name: p for p in params if p.name in touched}
        return Kernel(
            name=self.name + suffix,
            params=tuple(kept.values()),
            constants=constants,
            body=statements,
            grid=(grid,),
            num_warps=num_warps,
            num_stages=num_stages,
            node=self.node,
            flops=flops(self.nodes),
            wide=body.is_wide,
            locs=body.locs,
            in_place=_in_place(body, kept, in_slices=in_slices),
            touched=self._touched(),
        )

    def _touched(self) -> dict[str, int]:
        """The bytes that are read of inputs of which there are only slices."""
        seen_as = {v: v for v in self.inputs}
        nbytes: dict[Value, int] = {}
        for node in self.nodes:
            for value in dict.fromkeys(seen_as[v] for v in node.inputs if v in seen_as):
                if node.op.name in ("reshape", "permute") and node.output not in self.inputs:
                    seen_as[node.output] = value
                    continue
                part = node.output if node.op.name == "slice" else value
                nbytes[value] = nbytes.get(value, 0) + part.type.nbytes
        for stored in (seen_as[v] for v, _ in self.outputs if v in seen_as):
            nbytes[stored] = stored.type.nbytes
        return {self.inputs[v].name: n for v, n in nbytes.items() if n < v.type.nbytes}


# Names of constexprs: taken in every kernel, so that no value is called like one.
CONSTANTS = (
    "BLOCK",
    "ROWS",
    "COLS",
    "PIECES",
    "SOURCES",
    "CHUNK",
    "WAYS",
    "SEGMENTS",
    "STEP",
    "PIECES",
    "BLOCK_M",
    "BLOCK_N",
    "BLOCK_K",
    "SLICE_N",
    "PROGRAMS",
)


def region_of(node: Node) -> Region:
    """`node` as a region: its body if it has one, else itself alone."""
    if "body" in node.attrs:
        body = node.attrs["body"]
        nodes, inputs, outputs = body.nodes, body.inputs, body.outputs
    else:
        nodes, inputs, outputs = (node,), node.inputs, node.outputs
    by_value: dict[Value, Param] = {}
    taken: set[str] = set()
    for number, value in enumerate(dict.fromkeys(node.inputs)):
        name = _unused(role_of(value.hint) or f"x{number}", taken)
        by_value[value] = Param(f"{name}_ptr", value.type, "in", value)
    stored = []
    for number, (own, outer) in enumerate(zip(outputs, node.outputs, strict=True)):
        name = _unused(role_of(outer.hint) or f"out{number}", taken)
        stored.append((own, Param(f"{name}_ptr", outer.type, "out", outer)))
    params = {own: by_value[outer] for own, outer in zip(inputs, node.inputs, strict=True)}
    return Region(kernel_name(nodes), node, nodes, params, tuple(stored))


def role_of(hint: str) -> str:
    """What a value is to a kernel: "weight" of "blocks.3.up.weight"; "" if its name does not say.

    Layers that are alike then have the same kernels; `Param.value` still knows whose weight it is.
    """
    words = [word for word in hint.split(".") if not word.isdigit()]
    return sanitized(words[-1]) if words else ""


def kernel_name(nodes: tuple[Node, ...]) -> str:
    """The ops that matter, in order, each once: `max_sub_exp_sum_div`."""
    words = list(dict.fromkeys(n.op.name for n in nodes if n.op.name not in DULL))
    name = ""
    for word in words or [n.op.name for n in nodes[-1:]] or ["copy"]:
        if len(name) + len(word) >= LONGEST_NAME:
            return f"{name}_etc"
        name = f"{name}_{word}" if name else word
    return f"{name}_kernel" if hasattr(builtins, name) else sanitized(name)


def _unused(wish: str, taken: set[str]) -> str:
    name = wish
    number = 1
    while name in taken:
        name = f"{wish}_{number}"
        number += 1
    taken.add(name)
    return name


def flops(nodes: tuple[Node, ...]) -> int:
    """Arithmetic operations: one an element of pointwise ops and reductions, two a product."""
    total = 0
    for node in nodes:
        if node.op.family == "contraction":
            total += 2 * node.output.type.numel * node.inputs[0].type.shape[-1]
        elif node.op.family in ("reduction", "scan"):
            total += node.inputs[0].type.numel
        elif node.op.family == "pointwise":
            total += node.output.type.numel
        elif node.op.name in ("index_add", "scatter_add"):
            total += node.inputs[2].type.numel
    return total


def _in_place(
    body: Body, params: Mapping[str, Param], *, in_slices: bool
) -> tuple[tuple[str, str], ...]:
    """(out, in) params that may share memory: `in` is only read where `out` is then written."""
    loads: dict[str, set[object]] = {}
    stores: dict[str, set[object]] = {}
    # A descriptor reads elsewhere, too.
    boxed = {p.value for p in params.values() if p.box is not None}
    inside = {p.name for p in params.values() if p.value in boxed}
    for statement in body.statements:
        for s in walk((statement,)):
            if isinstance(s, Load | Store):
                found = loads if isinstance(s, Load) else stores
                found.setdefault(s.param, set()).add((s.at, s.masks))
                if s is not statement:
                    inside.add(s.param)
    return tuple(
        (out, read)
        for out, places in stores.items()
        for read, read_at in loads.items()
        if places == read_at and (in_slices or len(places) == 1) and not inside & {out, read}
        if params[out].type == params[read].type
    )


# --- Where a lane's result goes ----------------------------------------------------------------


def places(nodes: tuple[Node, ...], seeds: Mapping[Value, At]) -> dict[Value, At]:
    """The index of each value's element that belongs to a lane, from what is known of `seeds`.

    Through pointwise ops it stays; through views that only reorder, it moves along.
    """
    found = dict(seeds)
    for node in nodes:
        known = [v for v in node.inputs if v in found]
        if not known or any(v in found for v in node.outputs):
            continue
        at, type_ = found[known[0]], known[0].type
        moved = _moved(node, at, type_)
        if moved is not None:
            found[node.outputs[0]] = moved
    return found


def _moved(node: Node, at: At, type_: TensorType) -> At | None:
    name, attrs = node.op.name, node.attrs
    if node.op.family == "pointwise":
        return at
    if name == "reshape":
        return unflatten(flatten(at, type_.shape), attrs["shape"])
    if name == "permute":
        return tuple(at[d] for d in attrs["dims"])
    if name == "flip":
        return tuple(type_.shape[d] - 1 - i if d in attrs["dims"] else i for d, i in enumerate(at))
    return None


def flat_place(value: Value, at: At, shape: Shape, found: Mapping[Value, At]) -> At:
    """The index in `value` of the element that the lane at index `at` of `shape` computes."""
    if value in found:
        return found[value]
    assert math.prod(shape) == value.type.numel, "a lane for each element of an output"
    return unflatten(flatten(at, shape), value.type.shape)


def with_outputs(region: Region, outputs: tuple[tuple[Value, Param], ...]) -> Region:
    """The same region, storing `outputs`."""
    return replace(region, outputs=outputs)
