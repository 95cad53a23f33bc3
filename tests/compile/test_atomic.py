"""A step that raises leaves parameters, moments and step counts as they were."""

from __future__ import annotations

import signal

import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: optim.AdamW(p, lr=0.1),
}


def trained(name):
    net = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 5))
    optimizer = OPTIMIZERS[name](net.parameters())

    @lowgrad.compile
    def step(t, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(t), y)
        loss.backward()
        optimizer.step()
        return loss

    return net, optimizer, step


def arrays(tree):
    """Every array and number in nested state, in order."""
    if isinstance(tree, dict):
        return [a for key in tree for a in arrays(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [a for item in tree for a in arrays(item)]
    if isinstance(tree, lowgrad.Tensor):
        return [np.array(tree.tolist())]
    return [tree]


def everything(net, optimizer):
    return arrays([net.state_dict(), optimizer.state_dict(), lowgrad.get_rng_state()])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("where", ["token", "target"])
@pytest.mark.parametrize("wrong", [12, -13])
def test_a_wrong_index_changes_nothing(name, where, wrong):
    net, optimizer, step = trained(name)
    tokens, targets = [0, 3, 11, 5], [0, 1, 4, 2]
    step(lowgrad.tensor(tokens), lowgrad.tensor(targets))
    before = everything(net, optimizer)
    (tokens if where == "token" else targets)[2] = wrong

    with pytest.raises(lowgrad.IndexOutOfRange):
        step(lowgrad.tensor(tokens), lowgrad.tensor(targets))

    def changed():
        return [
            not np.array_equal(a, b)
            for a, b in zip(before, everything(net, optimizer), strict=True)
        ]

    assert not any(changed())
    step(lowgrad.tensor([0, 3, 11, 5]), lowgrad.tensor([0, 1, 4, 2]))
    assert sum(changed()) >= 5 + 5  # each parameter, and at least a moment of each


def test_an_update_that_comes_first_waits_for_a_later_look_up():
    weight, table = lowgrad.ones(4), lowgrad.ones(3, 2)

    @lowgrad.compile
    def step(x, index):
        weight.add_(x)
        return table[index].sum()

    step(lowgrad.ones(4), lowgrad.tensor([0, 1]))
    with pytest.raises(lowgrad.IndexOutOfRange):
        step(lowgrad.ones(4), lowgrad.tensor([0, 7]))

    assert weight.tolist() == [2.0] * 4


def test_an_update_that_makes_the_index_is_undone():
    place, table = lowgrad.zeros(1, dtype=lowgrad.int64), lowgrad.ones(3, 2)

    @lowgrad.compile
    def step(by):
        place.add_(by)
        return table[place].sum()

    step(lowgrad.tensor([2]))
    with pytest.raises(lowgrad.IndexOutOfRange):
        step(lowgrad.tensor([1]))

    assert place.tolist() == [2]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_memory_for_the_results_changes_nothing(name, monkeypatch):
    net, optimizer, step = trained(name)
    t, y = lowgrad.randint(0, 12, (7,)), lowgrad.randint(0, 5, (7,))
    step(t, y)
    step(t, y)
    before = everything(net, optimizer)

    def none_left(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", none_left)
        with pytest.raises(MemoryError):
            step(t, y)

    for got, want in zip(everything(net, optimizer), before, strict=True):
        np.testing.assert_array_equal(got, want)
    assert np.isfinite(float(step(t, y)))


@pytest.fixture
def interruptible():
    """Whoever starts the tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_until_the_step_is_whole(monkeypatch):
    net, optimizer, step = trained("adamw")
    t, y = lowgrad.tensor([1, 2]), lowgrad.tensor([0, 3])
    step(t, y)
    compiled = step.lower(t, y)
    run = compiled.executable

    def interrupted(arrays):
        signal.raise_signal(signal.SIGINT)
        return run(arrays)

    before = copied(net)
    monkeypatch.setitem(compiled.__dict__, "executable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        step(t, y)
    after = copied(net)
    monkeypatch.undo()

    assert any(not np.array_equal(after[k], before[k]) for k in before), "the step was cut short"
    counts = {float(s["step"]) for s in optimizer.state_dict()["state"].values()}
    assert counts == {2.0}
    step(t, y)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def copied(net):
    return {k: np.array(v.numpy()) for k, v in net.state_dict().items()}
