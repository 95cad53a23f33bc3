"""The search for a plan: budgets are obeyed or refused, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from loop_programs import PROGRAMS, every_program, gradients_of, inputs
from models import MODELS

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.budget import Search
from lowgrad.errors import OutOfMemory
from lowgrad.passes.trades import NOTHING


def values(tensors):
    return [t.detach().numpy() for t in tensors if t is not None]


def least_budget(step, tensors) -> int:
    """What the refusal of a budget that is too small says would do."""
    fixed = sum(t.numel() * t.dtype.itemsize for t in tensors)
    with pytest.raises(OutOfMemory) as refused:
        lowgrad.compile(step, memory=fixed + 1).lower(*tensors)
    return int(refused.value.fix.split()[0].removeprefix("memory="))


@every_program
def test_the_least_budget_is_obeyed_and_one_byte_less_is_refused(name):
    loss, shapes = PROGRAMS[name]
    step, tensors = gradients_of(loss), inputs(*shapes)
    least = least_budget(step, tensors)

    plan = lowgrad.compile(step, memory=least).lower(*tensors).plan

    assert plan.peak_bytes <= least
    assert plan.trades
    with pytest.raises(OutOfMemory, match="too few"):
        lowgrad.compile(step, memory=least - 1).lower(*tensors)


@every_program
def test_a_budget_changes_nothing_but_memory(name):
    loss, shapes = PROGRAMS[name]
    step = gradients_of(loss)
    lowgrad.manual_seed(1)
    want = values(step(*inputs(*shapes)))
    free = lowgrad.compile(step).lower(*inputs(*shapes)).plan.peak_bytes
    least = least_budget(step, inputs(*shapes))

    for memory in (least, (least + free) // 2):
        lowgrad.manual_seed(1)
        got = values(lowgrad.compile(step, memory=memory)(*inputs(*shapes)))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-6)


def head_within(room: int, rows: int, width: int, classes: int):
    """A head in bfloat16 compiled for a GPU, with `room` bytes above its inputs and gradients."""
    tensors = inputs((rows, width), (classes, width), dtype=lowgrad.bfloat16)
    target = lowgrad.tensor(np.arange(rows) * 5 % classes)

    def step(x, w):
        loss = F.cross_entropy(F.linear(x, w), target)
        return loss, *lowgrad.autograd.grad(loss, (x, w))

    given = 2 * sum(t.numel() * t.dtype.itemsize for t in tensors) + rows * 8
    compiled = lowgrad.compile(step, memory=given + room, device="cuda", target="cuda:90")
    found = compiled.lower(*tensors)
    assert found.plan.peak_bytes <= given + room
    return found


def test_a_gradient_in_16_bits_is_added_up_as_such_if_32_have_no_room_and_the_pieces_are_few():
    rows, width, classes = 512, 264, 8192
    tight = head_within(classes * width, rows, width, classes)  # a quarter of it in 32 bits

    assert any("added up in bfloat16 over 8 pieces" in trade for trade in tight.plan.trades)
    assert "+0.0% FLOPs" in tight.plan.trades[-1]


def test_it_is_not_rounded_if_32_bits_have_room():
    rows, width, classes = 2048, 16, 8192
    in_32 = classes * width * 4

    found = head_within(in_32 + rows * classes // 2, rows, width, classes)

    assert any(f"a loop over {rows} steps" in trade for trade in found.plan.trades)
    assert not any("added up" in trade for trade in found.plan.trades)


def test_nor_many_times():
    """Then a loop goes along the classes; the sums of the hidden states' gradients are small."""
    rows, width, classes = 4096, 64, 8192

    found = head_within(classes * width * 4, rows, width, classes)

    assert any(f"a loop over {classes} steps" in trade for trade in found.plan.trades)
    assert not any("added up" in trade for trade in found.plan.trades)


def test_unasked_no_loop_is_made_whose_sums_take_more_than_it_saves():
    """Logits of a bfloat16 head that their gradient overwrites, against its sums in float32."""
    rows, width, classes = 8192, 4096, 131072
    specs = (
        lowgrad.TensorSpec((rows, width), lowgrad.bfloat16),
        lowgrad.TensorSpec((classes, width), lowgrad.bfloat16),
        lowgrad.TensorSpec((rows,), lowgrad.int64),
    )

    def step(x, w, target):
        leaves = [t.detach().requires_grad_() for t in (x, w)]
        loss = F.cross_entropy(F.linear(*leaves), target)
        return loss, *lowgrad.autograd.grad(loss, leaves)

    found = lowgrad.compile(step, device="cuda", target="cuda:90").lower(*specs)
    base = Search(found.graphs["autodiff"], fuse=True, machine=found.machine).candidate(NOTHING)

    given = 2 * 2 * (rows + classes) * width + 8 * rows + 4
    assert found.plan.peak_bytes == base.peak < given + (rows * classes * 2) * 1.01
    assert found.plan.trades == ()


def test_a_transformer_trains_the_same_in_the_least_memory():
    losses = []
    for is_tight in (False, True):
        lowgrad.manual_seed(0)
        step, _ = MODELS["gpt"]()
        batch = lowgrad.randint(0, 37, (4, 64)), lowgrad.randint(0, 37, (4, 64))
        memory = None
        if is_tight:
            free = lowgrad.compile(step).lower(*batch).plan
            with pytest.raises(OutOfMemory) as refused:
                lowgrad.compile(step, memory=free.state_bytes + 4096).lower(*batch)
            memory = int(refused.value.fix.split()[0].removeprefix("memory="))
            assert memory < free.peak_bytes
        compiled = lowgrad.compile(step, memory=memory)
        losses.append([float(first(compiled(*batch))) for _ in range(3)])

    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def first(result):
    return result[0] if isinstance(result, tuple | list) else result


def test_what_is_small_is_left_alone():
    step, batch = MODELS["classifier"]()

    compiled = lowgrad.compile(step).lower(*batch)

    assert compiled.plan.trades == ()
    assert "loops" not in compiled.graphs


def test_a_budget_that_is_large_enough_costs_nothing():
    loss, shapes = PROGRAMS["cross_entropy"]
    step = gradients_of(loss)
    free = lowgrad.compile(step).lower(*inputs(*shapes)).plan

    plan = lowgrad.compile(step, memory=free.peak_bytes).lower(*inputs(*shapes)).plan

    assert plan.trades == ()
    assert plan.peak_bytes == free.peak_bytes


def test_the_plan_with_nothing_traded_is_the_unbudgeted_one_of_a_small_step():
    step, batch = MODELS["classifier"]()
    compiled = lowgrad.compile(step).lower(*batch)

    base = Search(compiled.graphs["autodiff"], fuse=True).candidate(NOTHING)

    assert base.peak == compiled.plan.peak_bytes
