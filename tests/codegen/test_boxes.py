"""Products whose operands are read through descriptors, by programs that go from tile to tile."""

from dataclasses import replace

import numpy as np
import pytest
from codegen.helpers import arrays_for, check, expanded, node_of, region, tensor

from lowgrad.codegen.kernel import LoadBox, walk
from lowgrad.codegen.lower import lower
from lowgrad.codegen.run import launch_signature, run_kernels
from lowgrad.codegen.tiling import DotTiling, Tiling
from lowgrad.errors import KernelCheckError
from lowgrad.ir.types import bfloat16, float16, float32

pytestmark = pytest.mark.triton

BLOCKS = DotTiling(16, 32, 16, "dot", 4, 2, boxes=True)


def forced(**fields) -> Tiling:
    return Tiling(dot=replace(BLOCKS, **fields))


def transposed(x):
    return x.call("permute", dims=(*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2))


def product(m, n, k, orders, dtype=float32, batch=()):
    """A product of operands that lie in rows ("N") or in columns ("T")."""

    def f(a, b):
        a = transposed(a) if orders[0] == "T" else a
        return a.call("matmul", transposed(b) if orders[1] == "T" else b)

    a = (k, m) if orders[0] == "T" else (m, k)
    b = (n, k) if orders[1] == "T" else (k, n)
    return region("matmul", f, a=tensor(*batch, *a, dtype=dtype), b=tensor(*batch, *b, dtype=dtype))


def boxes_of(node, tiling):
    (kernel, *_) = lower(node, tiling)
    return [p.box for p in kernel.params if p.box is not None]


@pytest.mark.parametrize("dtype", [float32, bfloat16, float16], ids=str)
@pytest.mark.parametrize("orders", ["NN", "NT", "TN", "TT"])
@pytest.mark.parametrize("programs", [0, 3])
def test_both_orders_of_both_operands(orders, dtype, programs):
    node = product(40, 72, 48, orders, dtype)
    tiling = forced(programs=programs)

    check(node, tiling=tiling, terms=48, magnitude=192)
    (kernel,) = lower(node, tiling)
    assert len(boxes_of(node, tiling)) == 2
    assert kernel.source.count(".load([") == 2
    assert "tl.load" not in kernel.source
    assert kernel.source.count(".T\n") == orders.count("T")
    assert kernel.grid == (3 if programs else 9,)


@pytest.mark.parametrize("orders", ["NN", "NT", "TN", "TT"])
def test_batches_are_rows_of_one_matrix(orders):
    """Tiles of 16 x 32 of 24 x 40: they reach into the next product's rows, which nobody stores."""
    node = product(24, 40, 32, orders, batch=(2, 3))

    check(node, tiling=forced(), terms=32, magnitude=128)
    check(node, tiling=forced(programs=5), terms=32, magnitude=128)
    assert len(boxes_of(node, forced())) == 2


def test_heads_lie_beside_each_other_in_a_row():
    """Queries and keys of 3 heads of 16, as they are in what a linear layer makes."""

    def f(qkv):
        heads = qkv.call("reshape", shape=(2, 32, 2, 3, 16)).call("permute", dims=(2, 0, 3, 1, 4))
        q, k = (
            heads.call(
                "slice", starts=(i, 0, 0, 0, 0), stops=(i + 1, 2, 3, 32, 16), steps=(1,) * 5
            ).call("reshape", shape=(2, 3, 32, 16))
            for i in (0, 1)
        )
        return q.call("matmul", transposed(k))

    node = region("matmul", f, qkv=tensor(2, 32, 96))

    check(node, tiling=forced(), terms=16, magnitude=64)
    assert [b.shape for b in boxes_of(node, forced())] == [(64, 96), (64, 96)]


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ((40, 72, 40), "the inner axis is no whole number of blocks"),
        ((40, 34, 48), "rows of 34 numbers begin anywhere"),
        ((8, 72, 48), "a matrix as flat as that is not worth it"),
    ],
)
def test_other_operands_are_read_as_ever(sizes, why):
    m, n, k = sizes
    node = product(m, n, k, "NN")

    check(node, tiling=forced(), terms=k, magnitude=4 * k)
    assert len(boxes_of(node, forced())) < 2, why


def test_computed_operands_are_read_as_ever():
    def f(a, b):
        return a.call("exp").call("matmul", b)

    node = region("matmul", f, a=tensor(32, 48), b=tensor(48, 64))

    check(node, tiling=forced(), terms=48, magnitude=1500)
    assert [b.shape for b in boxes_of(node, forced())] == [(48, 64)]


def test_one_value_may_be_both_operands():
    def f(a):
        return a.call("matmul", transposed(a))

    node = region("matmul", f, a=tensor(40, 32))

    check(node, tiling=forced(), terms=32, magnitude=128)
    assert [b.block for b in boxes_of(node, forced())] == [(16, 16), (32, 16)]


@pytest.mark.parametrize("fields", [{}, {"slices": 2, "programs": 2}, {"split": 2}])
def test_what_follows_the_product_is_the_same(fields):
    def f(x, weight, bias, residual):
        y = x.call("matmul", transposed(weight))
        y = y + expanded(bias, y.shape)
        return y.call("tanh") + residual, y

    node = region(
        "matmul",
        f,
        x=tensor(40, 64),
        weight=tensor(72, 64),
        bias=tensor(72),
        residual=tensor(40, 72),
    )

    check(node, tiling=forced(**fields), terms=66, magnitude=260)


@pytest.mark.parametrize("fields", [{}, {"programs": 2}, {"split": 2}])
def test_sums_of_operands_are_of_the_same_blocks(fields):
    def f(x, grad, weight, bias):
        db = grad.call("sum", dims=(0,)).call("reshape", shape=(40,))
        return weight - transposed(grad).call("matmul", x), bias - db

    node = region(
        "matmul",
        f,
        x=tensor(64, 72),
        grad=tensor(64, 40),
        weight=tensor(40, 72),
        bias=tensor(40),
    )

    check(node, tiling=forced(**fields), terms=66, magnitude=260)


def test_a_result_is_never_stored_over_what_a_descriptor_reads():
    def f(a, b):
        return a + a.call("matmul", b)

    node = region("matmul", f, a=tensor(32, 32), b=tensor(32, 32))

    (kernel,) = lower(node, forced())
    assert {p.name for p in kernel.params if p.value is node.inputs[0]} == {"a_ptr", "a_desc"}
    assert not kernel.in_place


def test_bytes_read_through_both_are_counted_once():
    def f(a, b):
        return a + a.call("matmul", b)

    node = region("matmul", f, a=tensor(32, 32), b=tensor(32, 32))

    (kernel,) = lower(node, forced())
    assert kernel.bytes_read == 2 * 32 * 32 * 4


def test_the_compiler_is_told_of_descriptors():
    (kernel,) = lower(product(40, 72, 48, "NT", bfloat16), forced())

    signature, _, divisible = launch_signature(kernel)

    assert signature == {
        "a_desc": "tensordesc<bf16[16, 16]>",
        "b_desc": "tensordesc<bf16[32, 16]>",
        "out0_ptr": "*bf16",
    }
    assert divisible == ("out0_ptr",)


def test_a_wrong_matrix_is_found():
    """A descriptor of more rows than there are reads past the end of the operand."""
    node = product(40, 64, 48, "NN")
    (kernel,) = lower(node, forced())
    params = tuple(
        replace(p, box=replace(p.box, shape=(p.box.shape[0] + 8, p.box.shape[1]))) if p.box else p
        for p in kernel.params
    )
    a, b = arrays_for(node)
    arrays = {"a_desc": a, "b_desc": b, "out0_ptr": np.empty((40, 64), np.float32)}

    with pytest.raises(KernelCheckError, match="a_desc"):
        run_kernels([replace(kernel, params=params)], arrays)


def test_a_wrong_coordinate_gives_wrong_numbers():
    """The check of the tests above would see it: the second operand is read a block further on."""
    node = product(32, 64, 32, "NN")
    (kernel,) = lower(node, forced())
    loads = [s for s in walk(kernel.body) if isinstance(s, LoadBox)]
    assert [str(i) for i in loads[1].at] == ["k", "block_n * 32"]

    def moved(statements):
        for s in statements:
            if s is loads[1]:
                s = replace(s, at=(s.at[0] + 16, s.at[1]))
            yield replace(s, body=tuple(moved(s.body))) if hasattr(s, "body") else s

    wrong = replace(kernel, body=tuple(moved(kernel.body)))
    a, b = arrays_for(node)
    arrays = {"a_desc": a, "b_desc": b, "out0_ptr": np.empty((32, 64), np.float32)}
    run_kernels([wrong], arrays)

    assert not np.allclose(arrays["out0_ptr"], a @ b)


def test_no_descriptors_unless_somebody_can_pass_them():
    node = node_of("matmul", [tensor(8192, 8192, dtype=bfloat16)] * 2, {})

    assert not boxes_of(node, Tiling(target="cuda:90"))
    assert boxes_of(node, Tiling(target="cuda:90", descriptors=True))
    assert not boxes_of(node, Tiling(target="cuda:80", descriptors=True))
