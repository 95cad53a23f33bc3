"""Recorded training steps: the same numbers as eager ones, with settings read at each replay."""

import copy

import numpy as np
import pytest
from optim_cases import CASES, IDS
from twin import numbers, ours

import lowgrad
import lowgrad.nn as nn
import lowgrad.nn.functional as F
import lowgrad.optim as optim

BATCHES = [ours(numbers(8, 4, seed=i)) for i in range(20)]
TARGETS = [ours(np.random.default_rng(i).integers(0, 3, size=8)) for i in range(20)]


def model():
    """Linear layers, a norm and dropout, in float64, always with the same weights."""
    lowgrad.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Dropout(0.2), nn.Linear(6, 3)
    )
    return net.double()


def training(net, optimizer, after=lambda: None):
    """A step on a batch; `after` comes between the backward pass and the update."""

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        after()
        optimizer.step()
        return loss

    return step


def losses(step, change=lambda i: None, steps=20):
    lowgrad.manual_seed(2)
    found = []
    for i in range(steps):
        change(i)
        found.append(step(BATCHES[i], TARGETS[i]).item())
    return found


def assert_near(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_recorded_steps_are_the_eager_ones(name, arguments):
    a, b = model(), model()
    p, q = (getattr(optim, name)(net.parameters(), **arguments) for net in (a, b))
    compiled = lowgrad.compile(training(a, p))

    assert_near(losses(compiled), losses(training(b, q)))

    assert compiled.recordings == 1
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=1e-11, atol=1e-14)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert p.state[x].get("step") == q.state[y].get("step")


@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_schedule_changes_each_replay_without_another_recording(name, where):
    def run(compile_):
        net = model()
        optimizer = getattr(optim, name)(net.parameters(), lr=0.1)
        schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
        inner = training(net, optimizer)

        def step(x, y):
            loss = inner(x, y)
            schedule.step()
            return loss

        whole = compile_(step if where == "inside" else inner)
        found = losses(whole, lambda i: schedule.step() if where == "outside" and i else None)
        assert getattr(whole, "recordings", 1) == 1
        return found, optimizer.param_groups[0]["lr"]

    got, want = run(lowgrad.compile), run(lambda step: step)

    assert_near(got[0], want[0])
    assert got[1] == want[1]


def test_one_cycle_varies_the_momentum_of_one_recording():
    def run(compile_):
        net = model()
        optimizer = optim.SGD(net.parameters(), momentum=0.9)
        schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=25)
        step = compile_(training(net, optimizer))
        found = losses(step, lambda i: schedule.step() if i else None)
        assert getattr(step, "recordings", 1) == 1
        return found

    assert_near(run(lowgrad.compile), run(lambda step: step))


def test_every_number_of_adam_is_read_at_each_replay():
    values = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.2}

    def run(compile_):
        net = model()
        optimizer = optim.AdamW(net.parameters(), lr=0.01)
        changes = iter(values.items())
        step = compile_(training(net, optimizer))

        def change(i):
            if i and i % 4 == 0:
                optimizer.param_groups[0].update([next(changes)])

        found = losses(step, change, steps=19)
        assert getattr(step, "recordings", 1) == 1
        return found

    assert_near(run(lowgrad.compile), run(lambda step: step))


@pytest.mark.parametrize("setting", [{"weight_decay": 0.1}, {"momentum": 0.5}, {"maximize": True}])
def test_a_change_of_structure_is_seen(setting):
    def run(compile_):
        net = model()
        optimizer = optim.SGD(net.parameters(), lr=0.05)
        step = compile_(training(net, optimizer))
        change = lambda i: optimizer.param_groups[0].update(setting) if i == 5 else None  # noqa: E731
        return losses(step, change, steps=10)

    assert_near(run(lowgrad.compile), run(lambda step: step))


def test_another_optimizer_of_the_same_structure_is_seen():
    def run(compile_):
        net = model()
        optimizer = optim.SGD(net.parameters(), lr=0.05)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step = compile_(step)
        found = losses(step, steps=3)
        optimizer = optim.SGD(net.parameters(), lr=0.5)
        return found + losses(step, steps=5)

    assert_near(run(lowgrad.compile), run(lambda step: step))


def test_clipping_is_recorded():
    def run(compile_):
        net = model()
        optimizer = optim.Adam(net.parameters(), lr=0.05)
        clip = lambda: nn.utils.clip_grad_norm_(net.parameters(), 0.1)  # noqa: E731
        return losses(compile_(training(net, optimizer, clip)))

    assert_near(run(lowgrad.compile), run(lambda step: step))


def test_a_recorded_run_resumes_with_the_same_50_losses():
    def fresh():
        net = model()
        optimizer = optim.AdamW(net.parameters(), lr=0.02, amsgrad=True)
        schedule = optim.lr_scheduler.StepLR(optimizer, 9, 0.7)
        return net, optimizer, schedule, lowgrad.compile(training(net, optimizer))

    def run(parts, steps):
        _, _, schedule, step = parts
        found = []
        for i in range(steps):
            found.append(step(BATCHES[i % 20], TARGETS[i % 20]).item())
            schedule.step()
        return found

    lowgrad.manual_seed(5)
    parts = fresh()
    run(parts, 6)
    saved = copy.deepcopy([part.state_dict() for part in parts[:3]])
    random = lowgrad.get_rng_state()
    want = run(parts, 50)

    parts = fresh()
    run(parts, 3)  # the recorded step must take the loaded state, not the one it was recorded with
    for part, state in zip(parts[:3], saved, strict=True):
        part.load_state_dict(state)
    lowgrad.set_rng_state(random)

    assert run(parts, 50) == want


def test_switching_to_evaluation_and_back_is_seen():
    net = model()
    forward = lowgrad.compile(lambda x: net(x))
    x = BATCHES[0]

    lowgrad.manual_seed(0)
    dropped = forward(x).tolist()
    net.eval()
    assert forward(x).tolist() == net(x).tolist()
    net.train()
    lowgrad.manual_seed(0)
    assert forward(x).tolist() == dropped
    assert forward.recordings == 2


@pytest.mark.parametrize("layer", ["attention", "embedding"])
def test_other_layers_are_recorded(layer):
    def run(compile_):
        lowgrad.manual_seed(1)
        if layer == "attention":
            net = nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True)
            inputs = BATCHES[0].reshape(2, 4, 4).float()
        else:
            net = nn.Embedding(5, 4, padding_idx=1)
            inputs = lowgrad.tensor([[0, 1, 4], [4, 4, 2]])
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

        def step(x):
            optimizer.zero_grad()
            loss = (net(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        step = compile_(step)
        return [step(inputs).item() for _ in range(5)]

    np.testing.assert_allclose(run(lowgrad.compile), run(lambda step: step), rtol=2e-5)
