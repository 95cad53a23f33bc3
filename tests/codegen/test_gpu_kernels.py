"""Steps as a GPU gets them: in 16 bits on the interpreter, and in machine code for each target.

The tables of registers and occupancy are goldens; they belong to one version of Triton.
"""

from __future__ import annotations

from functools import cache

import models
import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim
from lowgrad.cli.output import plain_table
from lowgrad.codegen.lower import is_free, lower
from lowgrad.codegen.run import run_node
from lowgrad.compare import errors
from lowgrad.compiler import Compiled
from lowgrad.ir.interpret import run_node as reference
from lowgrad.ir.walk import alone

pytestmark = pytest.mark.triton

TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")
TRITON = "3.9"
# What products are made by, and how operands get to shared memory.
TENSOR_CORES = {"cuda:80": "mma", "cuda:90": "wgmma", "cuda:100": "tcgen05", "hip:gfx942": "mfma"}


@cache
def in_16_bits(name: str, dtype) -> Compiled:
    lowgrad.manual_seed(0)
    lowgrad.set_default_dtype(dtype)
    try:
        step, batch = models.MODELS[name]()
        return lowgrad.compile(step, device="cuda", target="cuda:90").lower(*batch)
    finally:
        lowgrad.set_default_dtype(lowgrad.float32)


@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("name", models.MODELS)
def test_every_kernel_in_16_bits_means_what_its_region_means(name, dtype):
    compiled = in_16_bits(name, dtype)
    rng = np.random.default_rng(0)
    env = {}
    for value in compiled.graph.inputs:
        kind = value.type.dtype
        made = rng.uniform(0.1, 1.0, value.type.shape)
        if not kind.is_floating_point:
            made = rng.integers(0, 9, value.type.shape)
        env[value] = np.asarray(made).astype(kind.numpy)
    checked = 0
    for node in compiled.graph.nodes:
        operands = tuple(env[v] for v in node.inputs)
        expected = reference(node, operands)
        if not is_free(node) and lower(node, compiled.tiling):
            made = run_node(node, operands, compiled.tiling)
            checked += 1
            given = dict(zip(node.inputs, operands, strict=True))
            wrong = errors(alone(node), list(given.values()), made, expected)
            assert not any(wrong), f"{node.op.name} {node.loc}"
        env.update(zip(node.outputs, expected, strict=True))

    assert checked >= 8
    kinds = {p.type.dtype for k in compiled.kernels for p in k.params}
    assert dtype in kinds


@cache
def transformer(target: str) -> Compiled:
    """A block of a language model between an embedding and a head, in bfloat16, of even sizes."""
    lowgrad.manual_seed(0)
    lowgrad.set_default_dtype(lowgrad.bfloat16)
    try:
        tokens, block = nn.Embedding(1024, 128), models.Block(128, 2)
        head = nn.Linear(128, 1024, bias=False)
    finally:
        lowgrad.set_default_dtype(lowgrad.float32)
    parameters = [*tokens.parameters(), *block.parameters(), *head.parameters()]
    optimizer = optim.AdamW(parameters, lr=0.01)

    def step(x, y):
        optimizer.zero_grad()
        logits = head(block(tokens(x)))
        loss = F.cross_entropy(logits.reshape(-1, 1024), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    spec = lowgrad.TensorSpec((8, 128), lowgrad.int64)
    return lowgrad.compile(step, device="cuda", target=target).lower(spec, spec)


@pytest.mark.parametrize("target", TARGETS)
def test_a_transformers_kernels_are_good_machine_code(target, golden):
    facts = transformer(target).kernel_facts(target)

    assert [f.kernel.name for f in facts if f.binary.spill_bytes] == []
    narrow = [f.kernel.name for f in facts if f.kernel.bytes_read > 1 << 16 and f.vector_bits < 64]
    assert narrow == []
    products = [f for f in facts if "matmul" in f.kernel.name and f.kernel.flops > 1e6]
    assert len(products) >= 10
    for f in products:
        adds_up = "pieces" in f.kernel.params[0].name or not f.tensor_cores
        assert f.tensor_cores == TENSOR_CORES[target] or adds_up, f.kernel.name
    assert sum(f.tensor_cores == TENSOR_CORES[target] for f in facts) >= 10
    if target.startswith("cuda"):
        assert sum(bool(f.async_copies) for f in facts) >= 10

    import triton

    if not triton.__version__.startswith(TRITON):
        pytest.skip(f"the table is Triton {TRITON}'s")
    rows = [
        (
            *(f.kernel.name, str(f.times), str(f.binary.registers)),
            *(str(f.binary.shared_bytes), f"{f.binary.occupancy:.2f}", str(f.vector_bits)),
            *(f.tensor_cores or "-", f.async_copies or "-"),
        )
        for f in facts
    ]
    headers = ("kernel", "times", "regs", "shared", "occupancy", "bits", "tensor", "async")
    golden(plain_table(headers, rows))


@pytest.mark.parametrize(("rows", "wide"), [(2**31 // 1024 - 1, False), (2**31 // 1024 + 1, True)])
def test_offsets_are_64_bit_from_where_they_must_be(rows, wide):
    x = lowgrad.TensorSpec((rows, 1024), lowgrad.bfloat16)
    compiled = lowgrad.compile(lambda x: x.relu(), device="cuda", target="cuda:90").lower(x)

    assert {k.wide for k in compiled.kernels} == {wide}
    binary = compiled.cross_compile("cuda:90")[0]
    assert ("mul.wide" in binary.ptx or "s64" in binary.ptx) or not wide
    assert binary.spill_bytes == 0
