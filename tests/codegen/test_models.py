"""Every kernel of every test model: right on the interpreter, and compiled for each target."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from models import MODELS

import lowgrad
from lowgrad.codegen.lower import is_free, lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.step import cross_compile_kernels, distinct
from lowgrad.compiler import Compiled
from lowgrad.ir.interpret import run_node as reference

pytestmark = pytest.mark.triton

TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")


@cache
def compiled(name: str, fuse: bool = True) -> Compiled:
    lowgrad.manual_seed(0)
    step, batch = MODELS[name]()
    return lowgrad.compile(step, fuse=fuse).lower(*batch)


def values_of(graph):
    """An array for each input: small numbers, keys and indices in range."""
    rng = np.random.default_rng(0)
    for value in graph.inputs:
        if value.type.dtype.is_floating_point:
            yield (rng.uniform(0.1, 1.0, value.type.shape)).astype(value.type.dtype.numpy)
        else:
            yield rng.integers(0, 9, value.type.shape).astype(value.type.dtype.numpy)


@pytest.mark.parametrize("name", MODELS)
def test_every_fused_kernel_means_what_its_region_means(name):
    graph = compiled(name).graph
    env = dict(zip(graph.inputs, values_of(graph), strict=True))
    checked = 0
    for node in graph.nodes:
        operands = tuple(env[v] for v in node.inputs)
        expected = reference(node, operands)
        if not is_free(node) and lower(node):
            got = run_node(node, operands)
            checked += 1
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=str(node.loc))
        env.update(zip(node.outputs, expected, strict=True))

    assert checked >= 8


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_every_distinct_kernel_compiles_without_spills(name, target):
    kernels = distinct(compiled(name).kernels)

    binaries = cross_compile_kernels(kernels, target)

    assert len(binaries) == len(kernels)
    for binary in binaries:
        assert binary.spill_bytes == 0, binary.name
        assert 0 < binary.registers <= 255, binary.name


def test_the_interpret_device_trains_as_the_cpu_does():
    losses = []
    for device in ("cpu", "interpret"):
        lowgrad.manual_seed(0)
        step, batch = MODELS["dropout_clipped"]()
        run = lowgrad.compile(step, device=device)
        losses.append([run(*batch).item() for _ in range(2)])

    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_fusion_saves_kernels_and_bytes():
    fused, unfused = compiled("classifier").cost, compiled("classifier", fuse=False).cost

    assert unfused.kernels >= 3 * fused.kernels
    assert unfused.bytes >= 2 * fused.bytes
    a, b = compiled("gpt").cost, compiled("gpt", fuse=False).cost
    assert b.bytes >= 2 * a.bytes
