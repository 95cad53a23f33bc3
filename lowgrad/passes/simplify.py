"""Algebra that changes no bit of any result: a table of small rules.

What is missing here is missing on purpose: x * 0 is NaN for an infinite x, x + 0 turns -0 into 0,
x - x is NaN for NaN, and a cast to fewer bits is a rounding that the user asked for.
"""

from __future__ import annotations

import math

from lowgrad.ir.build import Tracer
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.types import DType, Shape
from lowgrad.passes.base import graph_pass
from lowgrad.passes.rewrite import Rewriter, Rule, Rules, rewrite

Found = Value | Tracer | None


# --- Arithmetic --------------------------------------------------------------------------------


def add_nothing(node: Node, r: Rewriter) -> Found:
    """x + -0.0 = x and, of integers, x + 0 = x, on either side."""
    x, y = node.inputs
    for kept, other in ((x, y), (y, x)):
        number = r.number(other)
        if number == 0 and (x.type.dtype.is_integer or math.copysign(1, number) < 0):
            return kept
    return None


def subtract_nothing(node: Node, r: Rewriter) -> Found:
    """x - 0 = x; x - -0.0 is not, for x = -0.0."""
    number = r.number(node.inputs[1])
    return node.inputs[0] if number == 0 and math.copysign(1, number) > 0 else None


def add_negative(node: Node, r: Rewriter) -> Found:
    """x + -y = x - y, and -y + x = x - y."""
    for x, other in (node.inputs, node.inputs[::-1]):
        negated = r.maker(other, "neg")
        if negated is not None:
            return r.wrap(x) - r.wrap(negated.inputs[0])
    return None


def subtract_negative(node: Node, r: Rewriter) -> Found:
    """x - -y = x + y."""
    negated = r.maker(node.inputs[1], "neg")
    return r.wrap(node.inputs[0]) + r.wrap(negated.inputs[0]) if negated else None


def multiply_by_one(node: Node, r: Rewriter) -> Found:
    """x * 1 = x and x * -1 = -x, on either side."""
    x, y = node.inputs
    for kept, other in ((x, y), (y, x)):
        number = r.number(other)
        if number == 1:
            return kept
        if number == -1 and kept.type.dtype.is_signed:
            return -r.wrap(kept)
    return None


def divide_by_power_of_two(node: Node, r: Rewriter) -> Found:
    """x / 1 = x, and x / 2^k = x * 2^-k: both sides round the same real number."""
    x, y = node.inputs
    number = r.number(y)
    if number == 1:
        return x
    # 2^-14 is f16's smallest normal number: up to there the reciprocal is exact in every dtype.
    if number and math.frexp(abs(number))[0] == 0.5 and 2.0**-14 <= abs(number) <= 2.0**14:
        return r.wrap(x) * (1.0 / number)
    return None


def power_one(node: Node, r: Rewriter) -> Found:
    """x ** 1 = x."""
    return node.inputs[0] if r.number(node.inputs[1]) == 1 else None


def undo_itself(node: Node, r: Rewriter) -> Found:
    """-(-x) = x, not not x = x."""
    inner = r.maker(node.inputs[0], node.op.name)
    return inner.inputs[0] if inner else None


def absolute_of_sign(node: Node, r: Rewriter) -> Found:
    """|-x| = |x| and ||x|| = |x|."""
    for name in ("neg", "abs"):
        inner = r.maker(node.inputs[0], name)
        if inner is not None:
            return r.wrap(inner.inputs[0]).call("abs")
    return None


def of_equals(node: Node, r: Rewriter) -> Found:
    """max(x, x) = min(x, x) = x and x = x or x = x."""
    x, y = node.inputs
    return x if x is y else None


def choose(node: Node, r: Rewriter) -> Found:
    """where(true, a, b) = a, where(false, a, b) = b, where(c, a, a) = a."""
    condition, a, b = node.inputs
    known = r.number(condition)
    if known is not None:
        return a if known else b
    return a if a is b else None


def choose_inverted(node: Node, r: Rewriter) -> Found:
    """where(not c, a, b) = where(c, b, a)."""
    condition, a, b = node.inputs
    inverted = r.maker(condition, "logical_not")
    if inverted is None:
        return None
    return r.wrap(inverted.inputs[0]).call("where", r.wrap(b), r.wrap(a))


def same_value(node: Node, r: Rewriter) -> Found:
    """stop_gradient(x) = x, once nobody differentiates any more."""
    return node.inputs[0]


def same_type(node: Node, r: Rewriter) -> Found:
    """A cast or a view to the type that x has already is x."""
    (x,) = node.inputs
    return x if x.type == node.output.type else None


def cast_of_cast(node: Node, r: Rewriter) -> Found:
    """cast(cast(x)) = cast(x) if the inner one loses nothing."""
    inner = r.maker(node.inputs[0], "cast")
    if inner is None or node.attrs["dtype"].is_low_precision:
        return None  # in a fused region this cast is where an unrounded x gets rounded
    (x,) = inner.inputs
    if not _holds(inner.attrs["dtype"], x.type.dtype):
        return None
    return r.wrap(x).call("cast", dtype=node.attrs["dtype"])


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`, with the same further conversions."""
    if narrow.name == "bool":
        return True
    if narrow.is_floating_point:
        # Floats to integers out of range are undefined, and may differ by the float's width.
        return wide.is_floating_point and (wide.itemsize, narrow.itemsize) in _WIDER
    return wide.is_integer and wide.is_signed and wide.itemsize > narrow.itemsize


_WIDER = ((8, 4), (8, 2), (4, 2))


# --- Views -------------------------------------------------------------------------------------


def reshape_of_reshape(node: Node, r: Rewriter) -> Found:
    """reshape(reshape(x)) = reshape(x)."""
    inner = r.maker(node.inputs[0], "reshape")
    return _reshape(r, inner.inputs[0], node.attrs["shape"]) if inner else None


def reshape_of_repeated(node: Node, r: Rewriter) -> Found:
    """reshape(expand(x)) = expand(reshape(x)) for an x of one element."""
    inner = r.maker(node.inputs[0], "expand")
    if inner is None or inner.inputs[0].type.numel != 1:
        return None
    shape = node.attrs["shape"]
    return _expand(r, _reshape(r, inner.inputs[0], (1,) * len(shape)), shape)


def permute_nothing(node: Node, r: Rewriter) -> Found:
    """A permutation that only moves dims of size 1 is a reshape, which costs nothing."""
    (x,) = node.inputs
    moved = [d for d in node.attrs["dims"] if x.type.shape[d] != 1]
    return _reshape(r, x, node.output.type.shape) if moved == sorted(moved) else None


def permute_of_permute(node: Node, r: Rewriter) -> Found:
    """permute(permute(x)) = permute(x)."""
    inner = r.maker(node.inputs[0], "permute")
    if inner is None:
        return None
    dims = tuple([inner.attrs["dims"][d] for d in node.attrs["dims"]])
    return r.wrap(inner.inputs[0]).call("permute", dims=dims)


def permute_of_expand(node: Node, r: Rewriter) -> Found:
    """permute(expand(x)) = expand(permute(x)), so that expands meet their readers."""
    inner = r.maker(node.inputs[0], "expand")
    if inner is None:
        return None
    moved = r.wrap(inner.inputs[0]).call("permute", dims=node.attrs["dims"])
    return _expand(r, moved.value, node.output.type.shape)


def expand_of_expand(node: Node, r: Rewriter) -> Found:
    """expand(expand(x)) = expand(x)."""
    inner = r.maker(node.inputs[0], "expand")
    return _expand(r, inner.inputs[0], node.attrs["shape"]) if inner else None


def slice_of_slice(node: Node, r: Rewriter) -> Found:
    """slice(slice(x)) = slice(x)."""
    inner = r.maker(node.inputs[0], "slice")
    if inner is None or node.output.type.numel == 0:
        return None
    starts, stops, steps = [], [], []
    for axis, count in enumerate(node.output.type.shape):
        step = inner.attrs["steps"][axis]
        start = inner.attrs["starts"][axis] + node.attrs["starts"][axis] * step
        starts.append(start)
        steps.append(step * node.attrs["steps"][axis])
        stops.append(start + (count - 1) * steps[-1] + 1)
    window = {"starts": tuple(starts), "stops": tuple(stops), "steps": tuple(steps)}
    return r.wrap(inner.inputs[0]).call("slice", **window)


def flip_of_flip(node: Node, r: Rewriter) -> Found:
    """flip(flip(x)) flips the dims that one of them flips; dims of size 1 or 0 none."""
    (x,) = node.inputs
    inner = r.maker(x, "flip")
    base, flipped = (x, set()) if inner is None else (inner.inputs[0], set(inner.attrs["dims"]))
    dims = flipped.symmetric_difference(node.attrs["dims"])
    wanted = tuple(sorted([d for d in dims if x.type.shape[d] > 1]))
    if inner is None and wanted == tuple(sorted(node.attrs["dims"])):
        return None
    return r.wrap(base).call("flip", dims=wanted) if wanted else base


def pad_nothing(node: Node, r: Rewriter) -> Found:
    """pad by no elements = x."""
    return None if any(node.attrs["low"]) or any(node.attrs["high"]) else node.inputs[0]


def cat_of_one(node: Node, r: Rewriter) -> Found:
    """cat(x) = x; parts without elements add nothing."""
    if len(node.inputs) == 1:
        return node.inputs[0]
    full = [v for v in node.inputs if v.type.shape[node.attrs["dim"]] > 0]
    if len(full) in (0, len(node.inputs)):
        return None
    first, *rest = [r.wrap(v) for v in full]
    return first.call("cat", *rest, dim=node.attrs["dim"])


def reduce_one(node: Node, r: Rewriter) -> Found:
    """Reducing dims of size 1 changes nothing."""
    (x,) = node.inputs
    dims = tuple([d for d in node.attrs["dims"] if x.type.shape[d] != 1])
    if dims == tuple(node.attrs["dims"]):
        return None
    return r.wrap(x).call(node.op.name, dims=dims) if dims else x


def _reshape(r: Rewriter, x: Value, shape: Shape) -> Value:
    if x.type.shape == shape:
        return x
    return r.wrap(x).call("reshape", shape=shape).value


def _expand(r: Rewriter, x: Value, shape: Shape) -> Value:
    if x.type.shape == shape:
        return x
    return r.wrap(x).call("expand", shape=shape).value


RULES: Rules = {
    "add": (add_nothing, add_negative),
    "sub": (subtract_nothing, subtract_negative),
    "mul": (multiply_by_one,),
    "div": (divide_by_power_of_two,),
    "pow": (power_one,),
    "neg": (undo_itself,),
    "logical_not": (undo_itself,),
    "abs": (absolute_of_sign,),
    **dict.fromkeys(("maximum", "minimum", "logical_and", "logical_or"), (of_equals,)),
    "where": (choose, choose_inverted),
    "stop_gradient": (same_value,),
    "cast": (same_type, cast_of_cast),
    "reshape": (same_type, reshape_of_reshape, reshape_of_repeated),
    "permute": (permute_of_permute, permute_nothing, permute_of_expand),
    "expand": (same_type, expand_of_expand),
    "slice": (same_type, slice_of_slice),
    "flip": (flip_of_flip,),
    "pad": (pad_nothing,),
    "cat": (cat_of_one,),
    **dict.fromkeys(("sum", "prod", "max", "min", "any", "all"), (reduce_one,)),
}


def rules(*tables: Rules) -> Rules:
    """The union of tables, the rules of earlier ones first."""
    merged: dict[str, tuple[Rule, ...]] = {}
    for table in tables:
        for name, more in table.items():
            merged[name] = (*merged.get(name, ()), *more)
    return merged


@graph_pass("simplify", exact=True)
def simplify(graph: Graph) -> Graph:
    """Apply RULES everywhere."""
    return rewrite(graph, RULES)
