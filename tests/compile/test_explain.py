"""`c.explain()`: why a compiled step became its kernels."""

from __future__ import annotations

from models import MODELS

import lowgrad
from lowgrad.compiler import Options
from lowgrad.passes.trades import Trades
from lowgrad.transforms import compile_object


def test_a_compiled_step_says_what_was_fused_and_what_was_not():
    step, batch = MODELS["classifier"]()

    explanation = lowgrad.compile(step).lower(*batch).explain()

    assert explanation.made
    assert explanation.refused
    assert all(d.nbytes >= 0 and d.loc for d in explanation.made)
    assert "models.py:" in str(explanation)


def test_without_fusion_there_is_nothing_to_explain():
    step, batch = MODELS["classifier"]()

    assert not lowgrad.compile(step, fuse=False).lower(*batch).explain().decisions


def test_what_is_fused_inside_a_loop_counts_for_each_chunk():
    step, batch = MODELS["gpt"]()
    options = Options(trades=Trades(loop_over=1, chunk_bytes=400))

    compiled = compile_object(step, options).lower(*batch)

    assert any(n.op.family == "loop" for n in compiled.graph.nodes)
    assert any(d.times > 1 for d in compiled.explain().decisions)
