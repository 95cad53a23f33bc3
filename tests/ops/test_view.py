"""Views: index maps against evaluate, writing through them, and what they refuse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from samples import SAMPLES

from lowgrad.errors import AliasError, DTypeError, ShapeError
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import TensorType, bfloat16, float32, int32
from lowgrad.ops.view import expand, permute, reshape, slice_

MAPPED = ("reshape", "permute", "expand", "slice", "flip")
PIECED = ("pad", "cat", "slice_update")


def f32(*shape: int) -> TensorType:
    return TensorType(shape, float32)


def numbered(types, start: int = 0):
    """Arrays whose elements are all different."""
    arrays = []
    for type_ in types:
        arrays.append(np.arange(start, start + type_.numel).reshape(type_.shape))
        start += type_.numel
    return arrays


def of(names):
    """Parametrise over the samples of some ops."""
    rows = [pytest.param(REGISTRY[n], s, id=f"{n} {s}") for n in names for s in SAMPLES[n]]
    return pytest.mark.parametrize(("op", "sample"), rows)


@of(MAPPED)
def test_an_index_map_says_where_each_element_comes_from(op, sample):
    (x,) = numbered(sample.inputs)
    out_type = op.infer(*sample.inputs, **sample.attrs)
    out = op.evaluate(x, **sample.attrs)

    for at in np.ndindex(out_type.shape):
        assert x[op.index(at, *sample.inputs, out_type, **sample.attrs)] == out[at]


def test_reshapes_of_every_shape_of_24_map_right():
    shapes = [
        s for n in range(1, 4) for s in itertools.product((1, 2, 3, 4, 6, 8, 12, 24), repeat=n)
    ]
    shapes = [s for s in shapes if np.prod(s) == 24]

    for a, b in itertools.product(shapes, shapes):
        x = np.arange(24).reshape(a)
        where = [reshape.index(at, f32(*a), f32(*b), shape=b) for at in np.ndindex(b)]
        assert [x[w] for w in where] == list(range(24)), (a, b)


def test_a_reshape_leaves_the_axes_that_stay_alone():
    class Opaque:
        """An index that no arithmetic is done on."""

    i, j, k = Opaque(), Opaque(), Opaque()

    split = reshape.index((i, 5, j, k), f32(7, 6, 9, 1), f32(7, 6, 1, 9), shape=(7, 6, 1, 9))

    assert split == (i, 5, k, 0)


@of(PIECED)
def test_pieces_say_where_each_element_comes_from(op, sample):
    xs = numbered(sample.inputs, start=100)
    out_type = op.infer(*sample.inputs, **sample.attrs)
    out = op.evaluate(*xs, **{**sample.attrs, "value": -1} if op.name == "pad" else sample.attrs)

    for at in np.ndindex(out_type.shape):
        pieces = op.pieces(at, sample.inputs, out_type, **sample.attrs)
        held = [p for p in pieces if all(low <= e < high for e, low, high in p.bounds)]
        assert out[at] == (xs[held[0].source][held[0].at] if held else -1)


@pytest.mark.parametrize("name", ["permute", "expand", "slice", "flip", "reshape"])
def test_views_share_memory(name):
    for sample in SAMPLES[name]:
        (x,) = numbered(sample.inputs)
        view = REGISTRY[name].evaluate(x, **sample.attrs)
        assert np.may_share_memory(x, view) or not view.size


@of([n for n in MAPPED if n != "expand"])
def test_writing_through_a_view_changes_what_it_shows_and_nothing_else(op, sample):
    out_type = op.infer(*sample.inputs, **sample.attrs)
    builder = Builder()
    base, new = builder.input(sample.inputs[0]), builder.input(out_type)
    graph = builder.graph((op.put(base, new, **sample.attrs).value,))
    storage = out_type.dtype.numpy
    x, update = (a.astype(storage) for a in numbered([*sample.inputs, out_type]))

    (got,) = interpret(graph, x, update)

    want = x.copy()
    for at in np.ndindex(out_type.shape):
        want[op.index(at, *sample.inputs, out_type, **sample.attrs)] = update[at]
    np.testing.assert_array_equal(got, want)


def test_writing_through_an_expanded_view_is_refused():
    builder = Builder()
    base, new = builder.input(f32(1, 3)), builder.input(f32(8, 3))

    with pytest.raises(AliasError) as caught:
        expand.put(base, new, shape=(8, 3))

    assert caught.value.message == (
        "cannot write in place: this tensor repeats memory (expanded from (1, 3) to (8, 3))"
    )
    assert expand.put(base, base, shape=(1, 3)) is base


def test_views_move_bits():
    x = np.array([0x7FC1, 0x8000, 0x0001], np.uint16).view(bfloat16.numpy)

    for name, attrs in {"flip": {"dims": (0,)}, "reshape": {"shape": (3, 1)}}.items():
        moved = REGISTRY[name].evaluate(x, **attrs)
        assert sorted(moved.reshape(-1).view(np.uint16)) == sorted(x.view(np.uint16))


I32 = TensorType((2, 3), int32)
REFUSED = {
    "reshape: 24 elements do not fit (5, 5)": ("reshape", [f32(2, 3, 4)], {"shape": (5, 5)}),
    "reshape: (4, -1) is not a shape: sizes are integers from 0": (
        "reshape",
        [f32(2, 2)],
        {"shape": (4, -1)},
    ),
    "permute: (0, 0) is not an order of the 2 dims of f32[2,3]": (
        "permute",
        [f32(2, 3)],
        {"dims": (0, 0)},
    ),
    "expand: dim 0 is 2, which does not repeat to 4": ("expand", [f32(2, 3)], {"shape": (4, 3)}),
    "expand: f32[3] has 1 dims, (2, 3) has 2": ("expand", [f32(3)], {"shape": (2, 3)}),
    "slice: 1:9:1 is no slice of dim 0, size 8": (
        "slice",
        [f32(8)],
        {"starts": (1,), "stops": (9,), "steps": (1,)},
    ),
    "slice: 0:8:0 is no slice of dim 0, size 8": (
        "slice",
        [f32(8)],
        {"starts": (0,), "stops": (8,), "steps": (0,)},
    ),
    "slice: 2 dims, but 1 starts, 1 stops, 1 steps": (
        "slice",
        [f32(8, 2)],
        {"starts": (0,), "stops": (8,), "steps": (1,)},
    ),
    "flip: (0, 0) are not different dims of f32[2,3]": ("flip", [f32(2, 3)], {"dims": (0, 0)}),
    "pad: (-1,) and (0,) are not counts for the 1 dims of f32[2]": (
        "pad",
        [f32(2)],
        {"low": (-1,), "high": (0,), "value": 0},
    ),
    "pad: the value '0' is not a number": ("pad", [f32()], {"low": (), "high": (), "value": "0"}),
    "cat: there is nothing to concatenate": ("cat", [], {"dim": 0}),
    "cat: f32[] has no dim 0": ("cat", [f32()], {"dim": 0}),
    "cat: f32[2,3] and f32[3,2] differ in a dim other than 0": (
        "cat",
        [f32(2, 3), f32(3, 2)],
        {"dim": 0},
    ),
    "cat: the dtypes differ: f32[2,3] and i32[2,3]": ("cat", [f32(2, 3), I32], {"dim": 0}),
    "slice_update: the slice is (2,), the update (3,)": (
        "slice_update",
        [f32(8), f32(3)],
        {"starts": (0,), "stops": (8,), "steps": (4,)},
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_infer_states_the_plain_fact(message):
    name, types, attrs = REFUSED[message]

    with pytest.raises((ShapeError, DTypeError)) as caught:
        REGISTRY[name].infer(*types, **attrs)

    assert caught.value.message == message


def test_slopes_of_dense_slices_are_pads():
    builder = Builder()
    x, g = builder.input(f32(8)), builder.input(f32(3))

    slice_.vjp(g, g, x, starts=(2,), stops=(5,), steps=(1,))
    permute.vjp(x, x, x, dims=(0,))

    assert [n.op.name for n in builder.nodes] == ["pad", "permute"]
