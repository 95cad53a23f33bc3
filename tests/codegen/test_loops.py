"""Row loops as kernels: what a step with loops launches, on the interpreter and for compilers."""

from __future__ import annotations

import numpy as np
import pytest
from loop_programs import arrays_for, every_program, looped, traced

import lowgrad
from lowgrad.codegen import step
from lowgrad.codegen.check import check_kernels
from lowgrad.codegen.lower import launches
from lowgrad.codegen.step import KernelExecutable, cross_compile_kernels
from lowgrad.errors import KernelCheckError
from lowgrad.ir.interpret import interpret
from lowgrad.passes.pipeline import LOWER, run_passes

TARGETS = ("cuda:90", "hip:gfx942")


def lowered(graph):
    return next(reversed(run_passes(LOWER, graph).values()))


@pytest.mark.parametrize("lean", [False, True], ids=["cheap", "lean"])
@every_program
def test_kernels_of_a_loop_compute_what_its_body_says(name, lean):
    graph = traced(name)
    arrays = arrays_for(graph)
    want = interpret(graph, *arrays)

    got = KernelExecutable(lowered(looped(graph, lean=lean)))([a.copy() for a in arrays])

    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("trades", [{}, {"lean": True}, {"narrow": True}], ids=str)
@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16], ids=str)
def test_sixteen_bit_loops(dtype, trades):
    graph = traced("cross_entropy", dtype)
    arrays = arrays_for(graph)
    want = interpret(graph, *arrays)

    got = KernelExecutable(lowered(looped(graph, **trades)))([a.copy() for a in arrays])

    for g, w in zip(got, want, strict=True):
        exact = w.astype(np.float32)
        np.testing.assert_allclose(g.astype(np.float32), exact, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["dropped", "causal"])
def test_kernels_of_a_loop_compile(name, target):
    kernels = [launch.kernel for launch in launches(lowered(looped(traced(name))))]

    assert all(cross_compile_kernels(kernels, target))


def test_a_loop_is_launched_chunk_by_chunk():
    made = looped(traced("no_bias_sum"))
    (loop,) = [n for n in made.nodes if n.op.name == "rows"]
    whole, tail = divmod(loop.attrs["steps"], loop.attrs["chunk"])

    times = [launch.times for launch in launches(lowered(made))]

    assert times.count(whole) == 4, "two products' gradients, the logits, and their row by row"
    assert whole > 1
    assert tail


def test_checking_a_step_runs_the_chunks_of_its_loops(monkeypatch):
    graph = lowered(looped(traced("no_bias_sum")))
    assert check_kernels(graph) == sum(n.op.name != "reshape" for n in graph.nodes)

    def off_by_one(node, operands, **how):
        return tuple(np.asarray(a + 1, a.dtype) for a in correct(node, operands, **how))

    correct = step.run_node
    # Only the kernels of a chunk's graph are run from there.
    monkeypatch.setattr(step, "run_node", off_by_one)
    with pytest.raises(KernelCheckError, match="the kernel of rows differs"):
        check_kernels(graph)
