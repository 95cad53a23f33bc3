"""Optimizers: PyTorch's steps from the same weights, and their state."""

import copy

import numpy as np
import pytest
import torch
from optim_cases import CASES, IDS
from twin import assert_equal, numbers, ours, theirs

import lowgrad
import lowgrad.optim as optim
from lowgrad.errors import ArgumentError, CheckpointError

MATRIX, TARGET = numbers(6, 4, seed=7), numbers(6, 3, seed=8)


def problem(convert):
    """Two parameters and a loss of them."""
    weight, bias = convert(numbers(4, 3), True), convert(numbers(3, seed=1), True)
    x, y = convert(MATRIX), convert(TARGET)
    return [weight, bias], lambda: ((x @ weight + bias - y) ** 2).sum()


def train(optimizer, loss, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_twenty_steps_are_pytorchs(name, arguments):
    (a, our_loss), (b, their_loss) = problem(ours), problem(theirs)

    train(getattr(optim, name)(a, **arguments), our_loss, 20)
    train(getattr(torch.optim, name)(b, **arguments), their_loss, 20)

    for p, q in zip(a, b, strict=True):
        assert_equal(p, q)
        assert p.is_leaf


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_a_resumed_run_is_bit_identical(name, arguments):
    params, loss = problem(ours)
    optimizer = getattr(optim, name)(params, **arguments)
    train(optimizer, loss, 3)
    saved = copy.deepcopy((optimizer.state_dict(), [p.tolist() for p in params]))
    train(optimizer, loss, 5)
    want = [p.tolist() for p in params]

    params, loss = problem(ours)
    optimizer = getattr(optim, name)(params)
    train(optimizer, loss, 2)
    optimizer.load_state_dict(saved[0])
    with lowgrad.no_grad():
        for p, values in zip(params, saved[1], strict=True):
            p.copy_(lowgrad.tensor(values, dtype=lowgrad.float64))
    train(optimizer, loss, 5)

    assert [p.tolist() for p in params] == want


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_pytorchs_state_can_be_loaded(name, arguments):
    (a, our_loss), (b, their_loss) = problem(ours), problem(theirs)
    reference = getattr(torch.optim, name)(b, **arguments)
    train(reference, their_loss, 3)
    optimizer = getattr(optim, name)(a)

    optimizer.load_state_dict(reference.state_dict())
    with lowgrad.no_grad():
        for p, q in zip(a, b, strict=True):
            p.copy_(ours(q.detach().numpy()))
    train(optimizer, our_loss, 5)
    train(reference, their_loss, 5)

    for p, q in zip(a, b, strict=True):
        assert_equal(p, q)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_the_state_has_pytorchs_structure(name, arguments):
    (a, our_loss), (b, their_loss) = problem(ours), problem(theirs)
    optimizer, reference = (
        getattr(lib, name)(p, **arguments) for lib, p in ((optim, a), (torch.optim, b))
    )
    train(optimizer, our_loss, 2)
    train(reference, their_loss, 2)

    got, want = optimizer.state_dict(), reference.state_dict()

    assert [g["params"] for g in got["param_groups"]] == [g["params"] for g in want["param_groups"]]
    assert set(got["param_groups"][0]) <= set(want["param_groups"][0])
    for number, state in want["state"].items():
        ours_ = got["state"].get(number, {})
        assert {n for n, v in state.items() if v is not None} <= set(ours_)
        for name_, value in state.items():
            if name_ != "step" and value is not None:
                assert_equal(ours_[name_], value)


def test_loading_fills_the_tensors_that_there_are():
    params, loss = problem(ours)
    optimizer = optim.SGD(params, momentum=0.9)
    train(optimizer, loss, 1)
    buffer, group = optimizer.state[params[0]]["momentum_buffer"], optimizer.param_groups[0]
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.25

    optimizer.load_state_dict(saved)

    assert optimizer.state[params[0]]["momentum_buffer"] is buffer
    assert optimizer.param_groups[0] is group
    assert group["lr"] == 0.25


def test_loading_a_fresh_state_begins_anew_in_the_same_tensors():
    params, loss = problem(ours)
    optimizer = optim.SGD(params, momentum=0.9, dampening=0.5)
    fresh = copy.deepcopy(optimizer.state_dict())
    train(optimizer, loss, 2)
    buffer = optimizer.state[params[0]]["momentum_buffer"]

    optimizer.load_state_dict(fresh)

    assert optimizer.state[params[0]] == {"step": 0, "momentum_buffer": buffer}
    assert not buffer.numpy().any()


BROKEN = {
    "a group less": (lambda s: s["param_groups"].clear(), r"groups of \[\] parameters"),
    "no state": (lambda s: s.pop("state"), 'has no "state"'),
    "no lr": (lambda s: s["param_groups"][0].pop("lr"), "group 0 of the state dict lacks lr"),
    "a moment less": (lambda s: s["state"][1].pop("exp_avg"), "of parameter 1 lacks exp_avg"),
    "no step": (lambda s: s["state"][0].pop("step"), "of parameter 0 lacks step"),
    "a shape": (
        lambda s: s["state"][0].update(exp_avg=lowgrad.zeros(2)),
        "exp_avg of parameter 0 does not fit",
    ),
}


@pytest.mark.parametrize(("damage", "match"), BROKEN.values(), ids=BROKEN)
def test_a_refused_load_changes_nothing(damage, match):
    params, loss = problem(ours)
    optimizer = optim.Adam(params)
    train(optimizer, loss, 2)
    before = copy.deepcopy(optimizer.state_dict())
    broken = copy.deepcopy(optimizer.state_dict())
    broken["param_groups"][0]["lr"] = 7.0
    broken["state"][0]["exp_avg"].fill_(1.0)
    damage(broken)

    with pytest.raises(CheckpointError, match=match) as caught:
        optimizer.load_state_dict(broken)

    assert "nothing was loaded" in caught.value.message
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, state in before["state"].items():
        assert after["state"][number]["step"] == state["step"]
        assert after["state"][number]["exp_avg"].tolist() == state["exp_avg"].tolist()


def test_groups_have_settings_of_their_own():
    (a, our_loss), (b, their_loss) = problem(ours), problem(theirs)

    def groups(params):
        return [{"params": params[0], "lr": 0.2}, {"params": [params[1]]}]

    train(optim.SGD(groups(a), lr=0.01, momentum=0.5), our_loss, 5)
    train(torch.optim.SGD(groups(b), lr=0.01, momentum=0.5), their_loss, 5)

    for p, q in zip(a, b, strict=True):
        assert_equal(p, q)


def test_a_parameter_without_gradient_stays_and_does_not_count():
    p, q = lowgrad.ones(2, requires_grad=True), lowgrad.ones(2, requires_grad=True)
    optimizer = optim.Adam([p, q])

    p.sum().backward()
    optimizer.step()

    assert q.tolist() == [1.0, 1.0]
    assert optimizer.state[p]["step"] == 1
    assert q not in optimizer.state


def test_a_changed_learning_rate_is_used_at_once():
    p = lowgrad.tensor([1.0], requires_grad=True)
    optimizer = optim.SGD([p], lr=0.5)
    for lr, want in [(0.5, 0.5), (0.25, 0.25), (0.0, 0.25)]:
        optimizer.param_groups[0]["lr"] = lr
        p.grad = lowgrad.ones(1)

        optimizer.step()

        assert p.tolist() == [want]


def test_step_returns_the_loss_of_its_closure():
    p = lowgrad.tensor([3.0], requires_grad=True)
    optimizer = optim.SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert p.tolist() == [0.0]


def test_zero_grad():
    p = lowgrad.tensor([3.0], requires_grad=True)
    optimizer = optim.SGD([p])
    p.grad = lowgrad.ones(1)

    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0]
    optimizer.zero_grad()
    assert p.grad is None


P = lowgrad.ones(1, requires_grad=True)
REFUSED = {
    "one tensor": (lambda: optim.SGD(P), TypeError, "not one tensor"),
    "nothing": (lambda: optim.SGD([]), ArgumentError, "list of parameters is empty"),
    "no tensor": (lambda: optim.SGD([3]), TypeError, "one of them is int"),
    "twice": (lambda: optim.SGD([P, P]), ArgumentError, "a parameter appears twice"),
    "no leaf": (lambda: optim.SGD([P * 2]), ArgumentError, "computed from other tensors"),
    "lr": (lambda: optim.Adam([P], lr=-1), ArgumentError, "lr must not be negative, not -1"),
    "betas": (lambda: optim.Adam([P], betas=(0.9, 1.0)), ArgumentError, r"betas\[1\] must be"),
    "nesterov": (lambda: optim.SGD([P], nesterov=True), ArgumentError, "needs a momentum"),
    "nan": (lambda: optim.SGD([P], lr=float("nan")), ArgumentError, "lr must not be negative"),
}


@pytest.mark.parametrize(("make", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_parameters_with_names_are_taken():
    optimizer = optim.SGD([("w", P)])

    assert optimizer.param_groups[0]["params"] == [P]


def test_repr_lists_the_settings():
    text = repr(optim.SGD([P], lr=0.5))

    assert text.startswith("SGD (\nParameter Group 0\n    dampening: 0.0\n    lr: 0.5\n")


def test_float32_steps_stay_near_pytorchs():
    a = [lowgrad.tensor(numbers(50).tolist(), requires_grad=True)]
    b = [torch.tensor(numbers(50).tolist(), requires_grad=True)]
    train(optim.AdamW(a, lr=0.01), lambda: (a[0] ** 4).sum(), 20)
    train(torch.optim.AdamW(b, lr=0.01), lambda: (b[0] ** 4).sum(), 20)

    assert a[0].dtype is lowgrad.float32
    np.testing.assert_allclose(a[0].detach().numpy(), b[0].detach().numpy(), rtol=1e-5, atol=1e-6)
