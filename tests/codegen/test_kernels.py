"""Kernels as text: goldens to read, the same in every process, and what our checks catch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from codegen.helpers import arrays_for, expanded, node_of, region, tensor, wanted
from codegen.test_contraction import gelu, transposed
from codegen.test_rows import cross_entropy, layer_norm, softmax

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.lower import launches, lower
from lowgrad.codegen.run import launch_signature
from lowgrad.codegen.tiling import Tiling
from lowgrad.codegen.triton.compile import Job, compile_job
from lowgrad.codegen.triton.interpret import check_dead_lanes, interpret
from lowgrad.codegen.triton.load import load
from lowgrad.errors import CompileError, KernelCheckError, Location
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Node
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import bfloat16, int32, int64

pytestmark = pytest.mark.triton

TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")


# --- The kernels -------------------------------------------------------------------------------


def linear(x, weight, bias):
    y = x.call("matmul", transposed(weight))
    return gelu(y + expanded(bias, y.shape))


def dropout_and_add(x, residual, key):
    """A transposed operand, random numbers and a choice, in one pass over memory."""
    noise = x.builder.apply(
        REGISTRY["uniform"], key, shape=residual.shape, dtype=residual.dtype, offset=3
    )
    kept = transposed(x) * 1.25
    zeros = x.builder.full(residual.type, 0.0)
    return (noise < 0.8).call("where", kept, zeros) + residual


def momentum_update(weight, grad, momentum, bias, bias_grad, lr):
    m = momentum * 0.9 + grad
    return (
        weight - m * expanded(lr, m.shape),
        m,
        bias - bias_grad * expanded(lr, bias.shape),
    )


NODES: dict[str, Node] = {
    "softmax": region("rows", softmax, x=tensor(64, 300)),
    "layer_norm": region(
        "rows",
        layer_norm,
        x=tensor(64, 768, dtype=bfloat16),
        weight=tensor(768, dtype=bfloat16),
        bias=tensor(768, dtype=bfloat16),
    ),
    "cross_entropy": region(
        "rows", cross_entropy, logits=tensor(128, 1000), target=tensor(128, dtype=int64)
    ),
    "linear_gelu": region(
        "matmul",
        linear,
        x=tensor(2000, 512, dtype=bfloat16),
        weight=tensor(2048, 512, dtype=bfloat16),
        bias=tensor(2048, dtype=bfloat16),
    ),
    "dropout": region(
        "pointwise",
        dropout_and_add,
        x=tensor(300, 70),
        residual=tensor(70, 300),
        key=tensor(2, dtype=int64),
    ),
    "updates": region(
        "multi",
        momentum_update,
        weight=tensor(256, 300),
        grad=tensor(256, 300),
        momentum=tensor(256, 300),
        bias=tensor(256),
        bias_grad=tensor(256),
        lr=tensor(),
    ),
    "embedding_gradient": node_of(
        "index_add", [tensor(1000, 64), tensor(8, 128, dtype=int64), tensor(8, 128, 64)], {"dim": 0}
    ),
    "long_rows": region("rows", softmax, x=tensor(8, 50257, dtype=bfloat16)),
    "column_sums": node_of("sum", [tensor(8192, 1024, dtype=bfloat16)], {"dims": (0,)}),
}
GOLDEN = ("softmax", "cross_entropy", "linear_gelu", "dropout", "updates", "embedding_gradient")


def sources(name: str) -> str:
    return "\n\n".join(kernel.source for kernel in lower(NODES[name]))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_kernel_reads(name, golden):
    golden(sources(name))


def test_the_users_lines_are_comments():
    builder = Builder()
    x = builder.input(tensor(4), "x")
    with builder.at(Location("model.py", 14, "forward")):
        y = x * 2.0 + 1.0
    with builder.at(Location("model.py", 15, "forward")):
        y = y.call("exp")
    graph = builder.graph((y.value,))
    fused = region("pointwise", lambda x: x, x=tensor(4))
    node = Node(fused.op, fused.inputs, {"body": graph, "kind": "pointwise"}, fused.outputs)

    (kernel,) = lower(node)

    assert "mul = x * 2.0  # model.py:14\n" in kernel.source
    assert "add = mul + 1.0\n" in kernel.source
    assert "exp = tl.exp(add)  # model.py:15\n" in kernel.source
    assert str(kernel.loc) == "model.py:14, in forward"


def test_the_text_is_the_same_in_every_process():
    own = "\n".join(sources(name) for name in NODES)
    code = "from codegen import test_kernels as t; print('\\n'.join(map(t.sources, t.NODES)))"
    root = Path(__file__).parents[2]
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}:{root / 'tests'}"}

        text = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)

        assert text == own + "\n"


# --- Facts about kernels -----------------------------------------------------------------------


def test_each_buffer_counts_once():
    (kernel,) = lower(region("pointwise", lambda x: (x * x, x + 1.0), x=tensor(100)))

    assert (kernel.bytes_read, kernel.bytes_written, kernel.flops) == (400, 800, 200)


def test_of_an_input_that_is_read_in_slices_these_count():
    def part(x, start, stop):
        return x.call("reshape", shape=(10, 10)).call(
            "slice", starts=(start, 0), stops=(stop, 10), steps=(1, 1)
        )

    def two_parts(x):
        return part(x, 0, 2) * part(x, 5, 7)

    (sliced,) = lower(region("pointwise", two_parts, x=tensor(100)))
    made = lower(region("rows", lambda x: (part(x, 0, 9).call("sum", dims=(1,)),), x=tensor(100)))

    assert sliced.bytes_read == 2 * 20 * 4
    assert [k.bytes_read for k in made] == [90 * 4]


def test_an_input_used_twice_is_one_param():
    node = node_of("add", [tensor(4), tensor(4)], {})
    twice = Node(node.op, (node.inputs[0],) * 2, node.attrs, node.outputs)

    (kernel,) = lower(twice)

    assert [p.role for p in kernel.params] == ["in", "out"]


def test_in_place_needs_the_same_element():
    (same,) = lower(region("pointwise", lambda x: x + 1.0, x=tensor(9)))
    (other,) = lower(region("pointwise", lambda x: x.call("flip", dims=(0,)), x=tensor(9)))

    assert same.in_place == (("out0_ptr", "x_ptr"),)
    assert other.in_place == ()


def test_a_reshape_and_no_elements_are_no_launch():
    assert lower(node_of("reshape", [tensor(4)], {"shape": (2, 2)})) == ()
    assert lower(node_of("add", [tensor(0, 4)] * 2, {})) == ()


@pytest.mark.parametrize(("size", "is_wide"), [(2**31 - 2**20, False), (2**31, True)])
def test_offsets_are_64_bit_from_2_to_the_31(size, is_wide):
    (kernel,) = lower(node_of("neg", [tensor(size)], {}))
    assert kernel.wide == is_wide
    assert (".to(tl.int64)" in kernel.source) == is_wide


def test_a_strided_view_of_a_large_tensor_is_wide_though_it_has_few_elements():
    attrs = {"starts": (2**31,), "stops": (2**31 + 64,), "steps": (32,)}
    (kernel,) = lower(node_of("slice", [tensor(2**31 + 64)], attrs))

    assert kernel.wide


def test_a_graph_is_lowered_node_by_node():
    builder = Builder()
    x = builder.input(tensor(4, 6), "x")
    y = (x + x).call("reshape", shape=(24,)).call("sum", dims=(0,))

    lowered = launches(builder.graph((y.value,)))

    assert [(launch.kernel.node.op.name, launch.times) for launch in lowered] == [
        ("add", 1),
        ("sum", 1),
    ]


def test_two_spaces_in_one_region_are_an_error():
    def f(x):
        return x.call("max", dims=(0,)), x.call("sum", dims=(1,))

    with pytest.raises(CompileError, match="its reductions are over the dims"):
        lower(region("rows", f, x=tensor(3, 4)))


def test_names_shadow_nothing_that_the_text_uses():
    def f(**inputs):
        total, *rest = inputs.values()
        for x in rest:
            total = total + x
        return total

    names = ("tl", "range", "float", "lambda", "BLOCK", "offs", "mask", "fc1.weight", "2x", "a b")
    node = region("pointwise", f, **{name: tensor(9) for name in names})
    arrays = arrays_for(node)

    (got,) = run(lower(node)[0], arrays, [np.empty(9, np.float32)])

    np.testing.assert_allclose(got, sum(arrays), rtol=1e-6)


def test_a_chain_of_thousands_is_no_recursion():
    def f(x):
        for i in range(3000):
            x = x * 1.5 if i % 2 else x + 0.5
        return x

    (kernel,) = lower(region("pointwise", f, x=tensor(9)))

    assert kernel.source.count(" = ") > 3000


def test_a_cast_inside_a_region_rounds():
    def f(x):
        return x - x.call("cast", dtype=bfloat16).call("cast", dtype=x.dtype)

    node = region("pointwise", f, x=tensor(9))
    arrays = arrays_for(node)

    (got,) = run(lower(node)[0], arrays, [np.empty(9, np.float32)])

    np.testing.assert_array_equal(got, wanted(node, arrays)[0])
    assert np.any(got)


# --- What the checks catch ---------------------------------------------------------------------


def run(kernel: Kernel, inputs, outputs, source: str = ""):
    """Run a kernel, or a mutation of it; its outputs."""
    fn = load(source or kernel.source, kernel.name)
    interpret(fn, kernel.grid, [*inputs, *outputs], kernel.constants)
    return outputs


def mutated(kernel: Kernel, old: str, new: str) -> str:
    assert old in kernel.source
    return kernel.source.replace(old, new)


SOFTMAX = region("rows", softmax, x=tensor(3, 9))


def test_a_planted_lost_mask_is_caught():
    (kernel,) = lower(SOFTMAX)
    wrong = mutated(kernel, "div, mask=mask)", "div)")

    with pytest.raises(KernelCheckError, match="out0_ptr"):
        run(kernel, arrays_for(SOFTMAX), [np.empty((3, 9), np.float32)], wrong)


@pytest.mark.parametrize(
    ("old", "new"), [('float("-inf"))', "0.0)"), ("exp, 0.0", "exp, 1.0"), ("row * 9", "row * 8")]
)
def test_planted_wrong_identities_and_strides_are_caught(old, new):
    (kernel,) = lower(SOFTMAX)
    arrays = [np.full((3, 9), -200, np.float32) + np.arange(27, dtype="f").reshape(3, 9)]
    (want,) = wanted(SOFTMAX, arrays)
    (right,) = run(kernel, arrays, [np.zeros((3, 9), np.float32)])
    np.testing.assert_allclose(right, want, rtol=1e-5)

    try:
        (got,) = run(kernel, arrays, [np.zeros((3, 9), np.float32)], mutated(kernel, old, new))
    except KernelCheckError:
        return  # two programs write to one row

    assert not np.allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize("node", [SOFTMAX, node_of("argmin", [tensor(3, 9)], {"dims": (1,)})])
def test_results_do_not_depend_on_dead_lanes(node):
    for tiling in (Tiling(), Tiling(row=8)):
        (kernel,) = lower(node, tiling)
        outputs = [np.empty(v.type.shape, v.type.dtype.numpy) for v in node.outputs]

        check_dead_lanes(
            load(kernel.source, kernel.name),
            kernel.grid,
            [*arrays_for(node), *outputs],
            kernel.constants,
        )


def test_a_wrong_index_reads_zero_and_no_foreign_memory():
    node = node_of("take", [tensor(4), tensor(3, dtype=int32)], {"dim": 0})
    arrays = [np.ones(4, np.float32), np.array([3, 4, -1], np.int32)]

    (got,) = run(lower(node)[0], arrays, [np.empty(3, np.float32)])

    assert got[0] == 1


# --- Compilers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile_without_spills(target):
    jobs = []
    for node in NODES.values():
        for kernel in lower(node):
            how = (kernel.source, kernel.name, *launch_signature(kernel), target)
            jobs.append(Job(*how, kernel.num_warps, kernel.num_stages))

    binaries = [compile_job(job) for job in jobs]

    assert {b.name: b.spill_bytes for b in binaries} == {j.name: 0 for j in jobs}
