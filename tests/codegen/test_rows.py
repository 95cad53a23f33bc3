"""Reductions as kernels: identities in the tails, NaN kept, all ways to go through rows."""

import numpy as np
import oracle
import pytest
from codegen.helpers import arrays_for, check, expanded, node_of, region, tensor, wanted
from samples import SAMPLES

from lowgrad.codegen.lower import lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import bfloat16, bool_, float16, float32, float64, int8, int32, int64, uint8

pytestmark = pytest.mark.triton

TILINGS = {
    "at once": Tiling(row=64, tile=16),
    "several rows": Tiling(row=64, tile=32, programs=1),
    "looped": Tiling(row=8, tile=8),
    "pieces": Tiling(row=8, tile=8, split=1),
}
NAMES = [n for n, op in REGISTRY.items() if op.family == "reduction"]
SAMPLE_ROWS = [pytest.param(n, s, id=f"{n} {s}") for n in NAMES for s in SAMPLES[n]]

every_tiling = pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)


@every_tiling
@pytest.mark.parametrize("dtype", [float32, bfloat16, float64], ids=str)
@pytest.mark.parametrize(("name", "sample"), SAMPLE_ROWS)
def test_a_kernel_computes_what_evaluate_says(name, sample, dtype, tiling):
    typed = sample.with_float(dtype)
    if dtype is not float32 and typed == sample:
        return
    node = node_of(name, typed.inputs, typed.attrs)
    arrays = typed.arrays()

    got = run_node(node, arrays, tiling)

    (want,) = wanted(node, arrays)
    magnitude = 2.0**60 if name == "prod" else np.sum(np.abs(arrays[0].astype(np.float64)))
    if name == "prod":
        magnitude = np.abs(want.astype(np.float64))
    oracle.assert_close(
        got[0], want, node.output.type.dtype, terms=sample.terms + 1, magnitude=magnitude
    )


@every_tiling
@pytest.mark.parametrize("name", ["max", "min", "prod", "argmax", "argmin", "sum"])
@pytest.mark.parametrize("dtype", [float32, float16, int32, int8, uint8, int64], ids=str)
def test_the_tail_never_enters(name, dtype, tiling):
    for width in (1, 7, 8, 9, 25):
        node = node_of(name, [tensor(2, width, dtype=dtype)], {"dims": (1,)})
        signs = (1, -1) if dtype.is_signed else (1,)
        for sign in signs:
            data = np.full((2, width), sign) * (1 + np.arange(width) % 2 * (name != "prod"))
            arrays = [data.astype(dtype.numpy)]

            (got,) = run_node(node, arrays, tiling, check=dtype.itemsize > 1)

            np.testing.assert_array_equal(got, wanted(node, arrays)[0])


@every_tiling
@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 2), (0, 1), (0, 1, 2)])
def test_any_dims_can_be_reduced(dims, tiling):
    node = node_of("sum", [tensor(3, 5, 11, dtype=int32)], {"dims": dims})
    arrays = [np.arange(165, dtype=np.int32).reshape(3, 5, 11)]

    check(node, arrays, tiling)


@every_tiling
@pytest.mark.parametrize("name", ["max", "min", "sum", "argmax", "argmin"])
@pytest.mark.parametrize("places", [(0,), (10,), (3, 9), (24,)])
def test_nan_propagates(name, places, tiling):
    node = node_of(name, [tensor(2, 25)], {"dims": (1,)})
    x = np.arange(50, dtype=np.float32).reshape(2, 25)
    x[0, list(places)] = np.nan

    check(node, [x], tiling)


@every_tiling
@pytest.mark.parametrize("value", [-np.inf, np.inf, 0.0])
@pytest.mark.parametrize("name", ["argmax", "argmin", "max", "min"])
def test_rows_of_one_value_give_the_first_place(name, value, tiling):
    check(node_of(name, [tensor(3, 20)], {"dims": (1,)}), [np.full((3, 20), value, "f")], tiling)


@every_tiling
@pytest.mark.parametrize("name", ["any", "all"])
def test_any_and_all_at_tails(name, tiling):
    node = node_of(name, [tensor(3, 9, dtype=bool_)], {"dims": (1,)})
    data = np.array([[0] * 9, [1] * 9, [0] * 8 + [1]], bool)

    check(node, [data], tiling)


# --- Several reductions ------------------------------------------------------------------------


def softmax(x):
    shape = x.shape
    shifted = x - expanded(x.call("max", dims=(1,)), shape)
    exp = shifted.call("exp")
    return exp / expanded(exp.call("sum", dims=(1,)), shape)


def layer_norm(x, weight, bias):
    shape = x.shape
    mean = x.call("sum", dims=(1,)) * (1 / shape[1])
    centred = x - expanded(mean, shape)
    variance = (centred * centred).call("sum", dims=(1,)) * (1 / shape[1])
    scale = (variance + 1e-5).call("rsqrt")
    scaled = centred * expanded(scale, shape)
    return scaled * expanded(weight, shape) + expanded(bias, shape), mean


def cross_entropy(logits, target):
    """The mean loss's rows, and its gradient with respect to the logits."""
    shape = logits.shape
    n_rows = shape[0]
    shifted = logits - expanded(logits.call("max", dims=(1,)), shape)
    log_sum = shifted.call("exp").call("sum", dims=(1,)).call("log")
    log_p = shifted - expanded(log_sum, shape)
    index = target.call("reshape", shape=(n_rows, 1))
    loss = -log_p.call("gather", index, dim=1)
    places = logits.builder.apply(REGISTRY["iota"], shape=shape, dtype=int64, dim=1)
    hit = places.equals(expanded(index, shape)).call("cast", dtype=logits.dtype)
    return loss, (log_p.call("exp") - hit) * (1 / n_rows)


@every_tiling
@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
@pytest.mark.parametrize("width", [8, 9, 25])
def test_softmax(width, dtype, tiling):
    check(region("rows", softmax, x=tensor(3, width, dtype=dtype)), tiling=tiling)


@every_tiling
def test_softmax_of_nan_and_of_infinities(tiling):
    x = np.zeros((3, 9), np.float32)
    x[0, 4], x[1, 2], x[2] = np.nan, -np.inf, -np.inf

    check(region("rows", softmax, x=tensor(3, 9)), [x], tiling)


@every_tiling
def test_layer_norm(tiling):
    node = region("rows", layer_norm, x=tensor(5, 11), weight=tensor(11), bias=tensor(11))

    check(node, tiling=tiling, terms=11, magnitude=40)


@every_tiling
def test_cross_entropy_forward_and_backward(tiling):
    node = region("rows", cross_entropy, logits=tensor(4, 10), target=tensor(4, dtype=int64))
    arrays = arrays_for(node)
    arrays[1] = np.array([0, 9, 3, 3])

    check(node, arrays, tiling, terms=10, magnitude=10)


@every_tiling
def test_column_sums_with_an_epilogue(tiling):
    def bias_update(grad, bias):
        total = grad.call("sum", dims=(0,)).call("reshape", shape=bias.shape)
        return bias - total * 0.1

    node = region("rows", bias_update, grad=tensor(19, 6), bias=tensor(6))

    check(node, tiling=tiling, terms=20, magnitude=40)


def test_a_mean_over_everything():
    def mean(x):
        return x.call("sum", dims=(0, 1)).call("reshape", shape=()) * (1 / 77)

    node = region("rows", mean, x=tensor(7, 11, dtype=bfloat16))
    for tiling in TILINGS.values():
        check(node, tiling=tiling, terms=77, magnitude=4)

    assert len(lower(node, TILINGS["pieces"])) == 2
    assert len(lower(node)) == 1


def test_the_default_cuts_few_long_rows_into_pieces():
    kernels = lower(node_of("sum", [tensor(1 << 22)], {"dims": (0,)}))

    assert [k.params[-1].role for k in kernels] == ["scratch", "out"]
    assert 100 < kernels[0].grid[0] < 400
    assert kernels[0].params[-1].value is kernels[1].params[0].value


def test_the_sums_of_pieces_are_the_same_bits_each_time():
    node = node_of("sum", [tensor(99)], {"dims": (0,)})
    arrays = arrays_for(node)

    first, second = (run_node(node, arrays, TILINGS["pieces"])[0] for _ in range(2))

    assert first.tobytes() == second.tobytes()
