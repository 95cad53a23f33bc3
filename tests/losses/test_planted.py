"""The checks of the losses can fail: each is shown a planted bug."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import losses.classification
import losses.heads  # noqa: F401 - these two fill LOSSES with what is used here
import pytest
from losses.compare import assert_near
from losses.loss import LOSSES, MANY_ROWS, SMALL, picked
from losses.ways import WAYS, assert_never_whole, expected, logits_shape, step_of

import lowgrad
from lowgrad.ir.op import REGISTRY


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", ["exp", "log", "matmul"])
def test_a_slope_that_is_off_by_a_thousandth_is_seen(op: str, way: str, monkeypatch: Any):
    kind = type(REGISTRY[op])
    right = kind.vjp

    def wrong(self: Any, *args: Any, **attrs: Any) -> Any:
        return tuple(g * 1.001 for g in right(self, *args, **attrs))

    want = expected(LOSSES["written_out"], SMALL)
    monkeypatch.setattr(kind, "vjp", wrong)

    with pytest.raises(AssertionError, match="is off by"):
        assert_near(WAYS[way](LOSSES["written_out"], SMALL), want)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_whose_normaliser_has_no_gradient_is_seen(way: str):
    def without(torch: Any, F: Any, t: Any) -> Any:
        z = F.linear(t.x, t.weight, t.bias)
        return (torch.logsumexp(z, dim=-1).detach() - picked(t, z)).mean()

    wrong = replace(LOSSES["cross_entropy"], function=without)

    with pytest.raises(AssertionError, match="x is off by"):
        assert_near(WAYS[way](wrong, SMALL), expected(LOSSES["cross_entropy"], SMALL))


def test_another_draw_of_dropout_is_seen(monkeypatch: Any):
    want = expected(LOSSES["dropout_on_hidden"], SMALL)
    monkeypatch.setattr("losses.ways.SEED", 8)

    with pytest.raises(AssertionError, match="is off by"):
        assert_near(WAYS["compiled"](LOSSES["dropout_on_hidden"], SMALL), want)


def test_whole_logits_are_seen():
    loss = LOSSES["cross_entropy"]
    step, arguments = step_of(loss, MANY_ROWS, "float32")
    unfused = lowgrad.compile(step, fuse=False).lower(*arguments)

    with pytest.raises(AssertionError, match="as large as all logits"):
        assert_never_whole(unfused, logits_shape(loss, MANY_ROWS))
