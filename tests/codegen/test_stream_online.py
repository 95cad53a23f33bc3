"""Sums relative to a maximum, made in the maximum's own pass: scores are computed once."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from attention_programs import BATCH, HEADS, VARIANTS, WIDTH, causal, plain, scores, traced
from loop_programs import arrays_for

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.codegen import stream_online
from lowgrad.codegen.lower import launches
from lowgrad.codegen.step import KernelExecutable
from lowgrad.compare import errors
from lowgrad.ir.interpret import interpret
from lowgrad.passes.loops import loops
from lowgrad.passes.pipeline import LOWER, run_passes
from lowgrad.passes.trades import Trades

pytestmark = pytest.mark.triton

ROWS, COLUMNS = 24, 75  # several blocks of columns, the last one not whole


def shifted_by_hand(q, k, v):
    """exp(x - max) without a guard: a row of -inf alone is NaN, in PyTorch too."""
    x = scores(q, k)
    e = (x - x.amax(-1, keepdim=True)).exp()
    return (e @ v) / e.sum(-1, keepdim=True)


def windowed(q, k, v):
    """The first columns of late rows are masked, so whole blocks of a row are -inf at first."""
    rows = lowgrad.arange(q.shape[-2]).unsqueeze(1)
    columns = lowgrad.arange(k.shape[-2]).unsqueeze(0)
    x = scores(q, k).masked_fill((columns < 2 * rows).logical_and(rows < 40), -math.inf)
    return shifted(x) @ v


def shifted(x):
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def two_sums(q, k, v):
    """The second sum needs the first one: it takes a pass of its own."""
    p = F.softmax(scores(q, k), dim=-1)
    return (p * (p * p).sum(-1, keepdim=True)) @ v


def forward_of(mix, dtype=lowgrad.float32):
    """The forward loop alone of [BATCH, HEADS, ROWS or COLUMNS, WIDTH], as it is run."""
    specs = [lowgrad.TensorSpec((BATCH, HEADS, n, WIDTH), dtype) for n in (ROWS, COLUMNS, COLUMNS)]
    graph = lowgrad.compile(mix).lower(*specs).graphs["cse"]
    least = BATCH * HEADS * ROWS * COLUMNS * dtype.itemsize
    graph = loops(Trades(loop_over=least, chunk_bytes=least // 3))(graph)
    return next(reversed(run_passes(LOWER, graph).values()))


def kernel_of(graph):
    (kernel,) = [x.kernel for x in launches(graph) if x.kernel.node.op.name == "rows"]
    return kernel


def arrays_of(graph, **changed):
    """Arrays for the inputs, by name where a test makes them itself."""
    made = arrays_for(graph)
    return [changed.get(v.hint, a) for v, a in zip(graph.inputs, made, strict=True)]


def named(graph):
    return dict(zip((v.hint for v in graph.inputs), arrays_for(graph), strict=True))


def check(graph, arrays):
    want = interpret(graph, *arrays)
    got = KernelExecutable(graph)([a.copy() for a in arrays])

    assert not any(errors(graph, arrays, got, want))
    return want


@pytest.mark.parametrize(
    "mix", [plain, causal, shifted_by_hand, windowed], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("dtype", [lowgrad.float32, lowgrad.bfloat16, lowgrad.float16], ids=str)
def test_one_pass_with_two_products(mix, dtype):
    graph = forward_of(mix, dtype)
    source = kernel_of(graph).source

    assert source.count("tl.dot(") == 2, "queries times keys, and times values"
    assert len(re.findall(r"^    for ", source, re.M)) == 1
    check(graph, arrays_for(graph))


@pytest.mark.parametrize("mix", [two_sums, VARIANTS["dropped"]], ids=lambda f: f.__name__)
def test_a_sum_that_needs_another_one_has_a_pass_of_its_own(mix):
    """Dropout is of the quotient: what it leaves of it is summed once the divisor is known."""
    graph = forward_of(mix)

    assert len(re.findall(r"^    for ", kernel_of(graph).source, re.M)) == 2
    check(graph, arrays_for(graph))


@pytest.mark.parametrize("scale", [80.0, 1e4])
@pytest.mark.parametrize("mix", [plain, causal, shifted_by_hand], ids=lambda f: f.__name__)
def test_large_scores_do_not_overflow(mix, scale):
    graph = forward_of(mix)
    given = named(graph)
    # Rising along the columns: most blocks have a larger maximum than all before them.
    k = given["k"] + np.linspace(0, 1, COLUMNS, dtype=np.float32)[:, None]

    (want,) = check(graph, arrays_of(graph, q=given["q"] * np.float32(scale), k=k))

    assert np.isfinite(want).all()


def attention(q, k, v):
    """Which leaves rows of -inf alone at 0."""
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("mix", [attention, plain, shifted_by_hand], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("what", "columns"),
    [
        ("some at first", slice(0, 40)),
        ("some at last", slice(60, None)),
        ("all", slice(None)),
    ],
)
def test_scores_of_minus_infinity(mix, what, columns):
    graph = forward_of(mix)
    given = named(graph)
    q, k = np.abs(given["q"]) + np.float32(0.1), given["k"]
    k[0, 0, columns] = -np.inf

    (want,) = check(graph, arrays_of(graph, q=q, k=k))

    is_lost = mix is not attention and what == "all"
    assert np.isnan(want[0, 0]).all() == is_lost
    assert np.isfinite(want[1]).all()


def test_a_nan_stays_in_its_rows():
    graph = forward_of(plain)
    q = named(graph)["q"]
    q[0, 1, 3] = np.nan

    (want,) = check(graph, arrays_of(graph, q=q))

    assert np.isnan(want[0, 1, 3]).all()
    assert np.isnan(want).sum() == WIDTH


def test_steps_have_one_forward_pass_and_the_statistics_of_before():
    """What goes to the backward loop is the final maximum and sum, not those of a block."""
    graph = traced(causal)
    first, *others = [x.kernel for x in launches(graph) if x.kernel.node.op.name == "rows"]

    assert first.source.count("tl.dot(") == 2
    assert len(others) == 2
    check(graph, arrays_for(graph))


def no_scale(self, early, is_first):
    return self.t.body.fill(1.0, self.shifts[early.shift].dtype, ("BLOCK_M", "1"))


def no_memory(self):
    for anchor in self.anchors:
        self.t.body.update(self.totals[anchor], self._now[anchor])


@pytest.mark.parametrize(("method", "wrong"), [("_scale", no_scale), ("end_block", no_memory)])
def test_these_tests_see_a_scale_that_is_forgotten(monkeypatch, method, wrong):
    monkeypatch.setattr(stream_online.Rescaled, method, wrong)
    graph = forward_of(plain)

    with pytest.raises(AssertionError):
        check(graph, arrays_for(graph))
