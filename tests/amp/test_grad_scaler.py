"""GradScaler against PyTorch's, with overflows planted in the gradients, eager and compiled."""

import numpy as np
import pytest
import torch

import lowgrad
from lowgrad.amp import GradScaler, ScalerError

OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
}
# Factors of the loss, by step: where one is infinite, so are all gradients.
FACTORS = [1.0, 1.0, float("inf"), 1.0, 2.0, 1.0, float("nan"), float("inf"), 1.0, 1.0, 1.0]
SETTINGS = {"init_scale": 2.0**8, "growth_interval": 3}


def trained(lib, scaler, name, way="eager", calls=FACTORS):
    """The scale after each step, and everything that the optimizer keeps at the end."""
    start = np.linspace(-1, 1, 6, dtype=np.float32)
    w = lib.from_numpy(start.copy()).requires_grad_()
    b = lib.from_numpy(start[:2].copy()).requires_grad_()
    optimizer = getattr(lib.optim, name)([w, b], **OPTIMIZERS[name])

    def step(factor):
        optimizer.zero_grad()
        loss = ((w * w).sum() + (b * 3).sum()) * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    run = lowgrad.compile(step) if way == "compiled" else step
    scales, weights = [], []
    for factor in calls:
        run(lib.tensor(factor))
        scales.append(scaler.get_scale())
        weights.append([*w.tolist(), *b.tolist()])
    if way == "compiled":
        assert run.recordings == 1
    return scales, np.array(weights), optimizer


@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scales_and_weights_are_pytorchs(name, way):
    scales, weights, _ = trained(torch, torch.amp.GradScaler("cpu", **SETTINGS), name)

    ours, found, _ = trained(lowgrad, GradScaler("cpu", **SETTINGS), name, way)

    assert ours == scales
    np.testing.assert_allclose(found, weights, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_leaves_everything_untouched(name, way):
    _, _, before = trained(lowgrad, GradScaler("cpu"), name, way, [1.0, 1.0])
    _, _, after = trained(lowgrad, GradScaler("cpu"), name, way, [1.0, 1.0, float("inf")])

    for p, q in zip(before.param_groups[0]["params"], after.param_groups[0]["params"], strict=True):
        assert p.tolist() == q.tolist()
        for key, value in before.state[p].items():
            other = after.state[q][key]
            assert (value == other).all() if hasattr(value, "tolist") else value == other


def test_clipping_between_unscale_and_step():
    w = lowgrad.ones(3, requires_grad=True)
    optimizer, scaler = lowgrad.optim.SGD([w], lr=1.0), GradScaler("cpu", init_scale=4.0)

    @lowgrad.compile
    def step():
        optimizer.zero_grad()
        scaler.scale((w * 30).sum()).backward()
        scaler.unscale_(optimizer)
        lowgrad.nn.utils.clip_grad_norm_([w], 1.0)
        scaler.step(optimizer)
        scaler.update()

    step()
    np.testing.assert_allclose(w.tolist(), [1 - 3**-0.5] * 3, rtol=1e-5)


def test_two_optimizers_are_skipped_each_by_itself():
    a, b = (lowgrad.ones(2, requires_grad=True) for _ in range(2))
    first, second = (lowgrad.optim.SGD([p], lr=0.5) for p in (a, b))
    scaler = GradScaler("cpu", init_scale=2.0)

    @lowgrad.compile
    def step(x, y):
        first.zero_grad()
        second.zero_grad()
        scaler.scale((a * x).sum() + (b * y).sum()).backward()
        scaler.step(first)
        scaler.step(second)
        scaler.update()

    step(lowgrad.tensor(1.0), lowgrad.tensor(float("inf")))
    assert a.tolist() == [0.5, 0.5]
    assert b.tolist() == [1.0, 1.0]
    assert scaler.get_scale() == 1.0


def test_methods_in_a_wrong_order_are_refused():
    w = lowgrad.ones(2, requires_grad=True)
    optimizer, scaler = lowgrad.optim.SGD([w], lr=0.5), GradScaler("cpu")
    with pytest.raises(ScalerError, match="neither"):
        scaler.update()
    with pytest.raises(ScalerError, match="no parameter"):
        scaler.unscale_(optimizer)
    scaler.scale(w.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(ScalerError, match="already called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(ScalerError, match="already called"):
        scaler.step(optimizer)
    with pytest.raises(ScalerError, match="after step"):
        scaler.unscale_(optimizer)
    h = lowgrad.ones(2).half().requires_grad_()
    scaler.scale(h.sum()).backward()
    with pytest.raises(lowgrad.DTypeError, match="float16 gradients"):
        scaler.unscale_(lowgrad.optim.SGD([h], lr=1.0))


def test_state_goes_there_and_back():
    scaler = GradScaler("cpu", init_scale=2.0**5, growth_interval=7)
    trained(lowgrad, scaler, "SGD", calls=[1.0, 1.0, 1.0])
    state = scaler.state_dict()
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**5, growth_interval=7)
    trained(torch, theirs, "SGD", calls=[1.0, 1.0, 1.0])
    assert state == theirs.state_dict()

    other = GradScaler("cpu")
    other.load_state_dict(state)
    assert other.state_dict() == state
    with pytest.raises(lowgrad.CheckpointError, match="disabled"):
        other.load_state_dict({})


def test_a_disabled_scaler_does_nothing():
    scaler = GradScaler("cpu", enabled=False)
    x = lowgrad.ones(2)
    assert scaler.scale(x) is x
    assert scaler.get_scale() == 1.0
    assert scaler.state_dict() == {}
