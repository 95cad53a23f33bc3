"""`c.explain()`: why a compiled step became its kernels."""

from __future__ import annotations

from models import MODELS

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim
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


def test_what_was_traded_for_memory_follows_the_fusions():
    step, specs = loss_of_many_classes()

    compiled = lowgrad.compile(step, memory="8MB").lower(*specs)

    assert compiled.plan.trades
    assert compiled.explain().trades == compiled.plan.trades
    lines = str(compiled.explain()).splitlines()
    at = lines.index(f"traded: {len(compiled.plan.trades)}")
    end = at + 1 + len(compiled.plan.trades)
    assert lines[at + 1 : end] == [f"  {line}" for line in compiled.plan.trades]
    assert any(line.startswith("refused: ") for line in lines[:at])


def test_what_traded_nothing_has_no_list_of_trades():
    step, batch = MODELS["classifier"]()

    assert "traded" not in str(lowgrad.compile(step).lower(*batch).explain())


def loss_of_many_classes():
    head = nn.Linear(32, 1000, bias=False)
    optimizer = optim.SGD(head.parameters(), lr=0.1)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, (
        lowgrad.TensorSpec((2000, 32), lowgrad.float32),
        lowgrad.TensorSpec((2000,), lowgrad.int64),
    )


def test_loops_say_what_they_take_at_a_time():
    step, specs = loss_of_many_classes()

    found = lowgrad.compile(step, memory="8MB").lower(*specs).explain().decisions

    reasons = [d.reason for d in found if d.by == "loops" and d.is_made and d.nbytes]
    assert any("at a time" in reason for reason in reasons)
