"""Any loss over a linear layer: PyTorch's value and gradients, eager, compiled, under a budget."""

from __future__ import annotations

import functools

import losses.batches
import losses.classification
import losses.distributions
import losses.heads
import losses.regression
import losses.rewards  # noqa: F401 - these six fill LOSSES
import numpy as np
import pytest
from losses.compare import assert_near, error, norm
from losses.loss import LOSSES, MANY_ROWS, NO_ROWS, ONE_CLASS, ONE_ROW, SMALL, Loss, Size
from losses.ways import TIGHT_WAYS, WAYS, budget_bytes, expected, step_of

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.errors import OutOfMemory

reference = functools.cache(expected)

EDGES = {"one row": ONE_ROW, "no rows": NO_ROWS, "one class": ONE_CLASS}
DEFINED = [
    pytest.param(loss, size, id=f"{loss.name}-{name}")
    for loss in LOSSES.values()
    for name, size in EDGES.items()
    if size not in loss.undefined
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_and_its_gradients_are_pytorchs(loss: Loss, way: str):
    assert_near(WAYS[way](loss, SMALL), reference(loss, SMALL))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("loss", "size"), DEFINED)
def test_a_loss_at_the_edges_of_its_sizes(loss: Loss, size: Size, way: str):
    assert_near(WAYS[way](loss, size), reference(loss, size))


TIGHT = [
    pytest.param(loss, way, id=f"{loss.name}-{way}")
    for way in TIGHT_WAYS
    for loss in LOSSES.values()
]


@pytest.mark.parametrize(("loss", "way"), TIGHT)
def test_a_loss_without_room_for_its_logits(loss: Loss, way: str):
    assert_near(TIGHT_WAYS[way](loss, MANY_ROWS), reference(loss, MANY_ROWS))


def test_a_loss_that_multiplies_its_logits_is_refused_with_what_it_would_take():
    """Of a product of the logits with themselves each element needs a row and a column of them."""
    _, arguments = step_of(LOSSES["mse_after_gelu"], MANY_ROWS, "float32")
    budget = budget_bytes(LOSSES["mse_after_gelu"], MANY_ROWS)

    def step(x, weight, *_):
        z = F.linear(x, weight)
        loss = (z @ z.T @ z).square().mean()
        loss.backward()
        return loss, x.grad, weight.grad

    with pytest.raises(OutOfMemory, match=f"the budget is {budget}"):
        lowgrad.compile(step, memory=budget)(*arguments)


HALVES = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # the rounding of a result
FACTOR = 3.0
IN_HALF = [
    "cross_entropy",
    "cross_entropy_weighted_by_class",
    "soft_capped",
    "z_loss",
    "distillation_of_logits",
    "mse_after_gelu",
    "multi_token",
    "tied_weights",
    "ppo",
]


@pytest.mark.parametrize("way", {**WAYS, **TIGHT_WAYS})
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", IN_HALF)
def test_a_loss_in_half_precision_is_as_near_as_pytorchs(name: str, dtype: str, way: str):
    """Its error to float64 is at most three times PyTorch's, and a rounding."""
    loss, size = LOSSES[name], MANY_ROWS if way in TIGHT_WAYS else SMALL
    exact = reference(loss, size, "float64", dtype)
    theirs = reference(loss, size, dtype, dtype)

    got = {**WAYS, **TIGHT_WAYS}[way](loss, size, dtype)

    for key, want in exact.items():
        allowed = FACTOR * error(theirs[key], want) + HALVES[dtype] * norm(want)
        assert error(got[key], want) <= allowed, key


@pytest.mark.parametrize("name", ["cross_entropy", "dpo", "info_nce", "dropout_on_logits"])
def test_a_compiled_loss_gives_the_same_bits_twice(name: str):
    once, twice = (WAYS["compiled"](LOSSES[name], SMALL) for _ in range(2))

    for key in once:
        np.testing.assert_array_equal(once[key], twice[key])
