"""What a compiled step does to the world is what the plain one does, call after call."""

from __future__ import annotations

import contextlib
import copy
import cProfile
import gc

import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim


def ramp(*shape: int) -> lowgrad.Tensor:
    return lowgrad.arange(int(np.prod(shape))).float().reshape(*shape) / 7


def same(a, b) -> None:
    np.testing.assert_allclose(a.tolist(), b.tolist(), rtol=1e-5, atol=1e-6)


def test_arguments_are_updated_in_place():
    x, y = ramp(3), ramp(3)

    def step(t):
        t.mul_(2)
        t[0] = 5.0

    compiled = lowgrad.compile(step)
    for _ in range(3):
        compiled(x)
        step(y)

    same(x, y)


def test_state_that_is_not_returned_is_kept():
    total, reference = lowgrad.zeros(3), lowgrad.zeros(3)

    @lowgrad.compile
    def step(x):
        total.add_(x)

    for i in range(4):
        step(ramp(3) + i)
        reference.add_(ramp(3) + i)

    same(total, reference)


def test_results_survive_the_next_call():
    step = lowgrad.compile(lambda x: (x * 2, x + 1))
    first = step(ramp(4))
    kept = [t.tolist() for t in first]

    step(ramp(4) + 9)

    assert [t.tolist() for t in first] == kept


def test_views_follow_a_compiled_update_and_copies_do_not():
    weight = ramp(4)
    view, copied, array = weight[1:3], weight.clone(), weight.numpy()
    before = weight.tolist()

    @lowgrad.compile
    def step():
        weight.add_(10)

    step()

    assert view.tolist() == weight.tolist()[1:3] != before[1:3]
    assert copied.tolist() == array.tolist() == before


def test_a_tape_keeps_the_values_it_was_made_with():
    weight = ramp(3).requires_grad_()
    loss = (weight * weight).sum()

    @lowgrad.compile
    def step():
        with lowgrad.no_grad():
            weight.add_(100)

    step()
    loss.backward()

    same(weight.grad, 2 * ramp(3))


def training(**options):
    lowgrad.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, options


def test_a_gradient_used_up_by_the_step_says_so_when_it_is_read():
    model, optimizer, _ = training()

    @lowgrad.compile
    def step(x):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    step(ramp(2, 3))

    with pytest.raises(lowgrad.AutogradError, match="used this gradient up"):
        _ = model.weight.grad


def test_keep_grads_keeps_them():
    model, optimizer, _ = training()

    def step(x):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    lowgrad.compile(step, keep_grads=True)(ramp(2, 3))

    same(model.bias.grad, lowgrad.ones(2) * 2)


def test_gradients_accumulate_over_compiled_micro_steps():
    model, _, _ = training()
    reference = copy.deepcopy(model)

    @lowgrad.compile
    def accumulate(x):
        model(x).square().sum().backward()

    for i in range(3):
        accumulate(ramp(2, 3) + i)
        reference(ramp(2, 3) + i).square().sum().backward()

    same(model.weight.grad, reference.weight.grad)
    same(model.bias.grad, reference.bias.grad)


@pytest.mark.parametrize("uses", [1, 2, 3, 5])
def test_a_parameter_used_k_times_gets_k_terms(uses):
    weight = ramp(3).requires_grad_()

    @lowgrad.compile
    def step(x):
        loss = sum(((weight * x) * (i + 1)).sum() for i in range(uses))
        loss.backward()

    step(lowgrad.ones(3))

    same(weight.grad, lowgrad.ones(3) * (uses * (uses + 1) / 2))


def test_gradients_of_gradients_inside_a_step():
    def penalty(x):
        x = x.detach().requires_grad_()
        (g,) = lowgrad.autograd.grad((x**3).sum(), x, create_graph=True)
        (gg,) = lowgrad.autograd.grad(g.sum(), x)
        return gg

    same(lowgrad.compile(penalty)(ramp(4)), 6 * ramp(4))


def test_a_compiled_module_is_differentiated_from_outside():
    lowgrad.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    reference = copy.deepcopy(model)
    compiled = lowgrad.compile(model)

    F.mse_loss(compiled(ramp(5, 3)), ramp(5, 2)).backward()
    F.mse_loss(reference(ramp(5, 3)), ramp(5, 2)).backward()

    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        same(a.grad, b.grad)


def test_lower_runs_and_changes_nothing():
    model, optimizer, _ = training()
    before = copy.deepcopy(model.state_dict())
    state = lowgrad.get_rng_state()

    @lowgrad.compile
    def step(x):
        optimizer.zero_grad()
        loss = F.dropout(model(x), 0.5).sum()
        loss.backward()
        optimizer.step()
        return loss

    compiled = step.lower(lowgrad.TensorSpec((2, 3), lowgrad.float32))

    assert compiled.plan.peak_bytes > 0
    assert lowgrad.get_rng_state() == state
    assert model.weight.grad is None
    for name, tensor in model.state_dict().items():
        assert tensor.tolist() == before[name].tolist()


def test_an_error_while_recording_leaves_everything_as_it_was():
    weight = ramp(3).requires_grad_()
    before = weight.tolist()

    @lowgrad.compile
    def step(x):
        with lowgrad.no_grad():
            weight.add_(1)
        (weight * x).sum().backward()
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        step(ramp(3))

    assert weight.tolist() == before
    assert weight.grad is None
    assert not lowgrad.dispatch.is_recording()


def test_compiled_functions_nest():
    inner = lowgrad.compile(lambda x: x * 2)
    outer = lowgrad.compile(lambda x: inner(x) + 1)

    same(outer(ramp(3)), ramp(3) * 2 + 1)


def test_structures_come_back_as_they_were():
    step = lowgrad.compile(lambda x: {"a": (x + 1, None), "b": [2, x], "c": "text"})
    x = ramp(2)

    got = step(x)

    assert got["b"][1] is x
    assert (got["a"][1], got["b"][0], got["c"]) == (None, 2, "text")
    same(got["a"][0], x + 1)


def test_the_budget_is_obeyed_before_anything_runs():
    weight = lowgrad.zeros(1000)

    def step(x):
        weight.add_(x)

    with pytest.raises(lowgrad.OutOfMemory, match="the budget is 4000"):
        lowgrad.compile(step, memory="4kB")(lowgrad.ones(1000))
    assert weight.sum().item() == 0

    lowgrad.compile(step, memory="1MiB")(lowgrad.ones(1000))
    assert weight.sum().item() == 1000


# Random numbers ------------------------------------------------------------------------------

DRAWS = {
    "rand": lambda x: lowgrad.rand(3) + x,
    "two draws": lambda x: lowgrad.rand(3) * lowgrad.randn(3) + x,
    "randint": lambda x: lowgrad.randint(0, 100, (3,)) + x,
    "randperm": lambda x: lowgrad.randperm(7),
    "dropout": lambda x: F.dropout(x + 1, 0.5),
    "bernoulli": lambda x: lowgrad.full((50,), 0.3).bernoulli(),
    "in place": lambda x: x.clone().uniform_(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_compiled_draws_are_the_eager_ones(name):
    function = DRAWS[name]
    runs = []
    for step in (function, lowgrad.compile(function)):
        lowgrad.manual_seed(3)
        runs.append(([step(ramp(3)).tolist() for _ in range(3)], lowgrad.get_rng_state()))

    assert runs[0] == runs[1]
    assert runs[0][0][0] != runs[0][0][1]


def test_a_dropped_activation_gets_no_gradient():
    x = lowgrad.ones(200).requires_grad_()

    @lowgrad.compile
    def step():
        y = F.dropout(x, 0.5)
        y.sum().backward()
        return y

    y = step()

    assert x.grad.tolist() == y.tolist()
    assert 0 < (y == 0).sum().item() < 200


def test_a_step_is_recorded_under_a_profiler_which_goes_on():
    profiler = cProfile.Profile()
    step = lowgrad.compile(lambda x: x * 2)

    profiler.enable()
    step(lowgrad.ones(3))
    sorted([3, 1])
    profiler.disable()

    names = {entry.code for entry in profiler.getstats() if isinstance(entry.code, str)}
    assert any("sorted" in name for name in names)


def test_the_garbage_collector_is_as_it_was_after_recording():
    def faulty(x):
        raise ValueError("no")

    for step in (lowgrad.compile(lambda x: x + 1), lowgrad.compile(faulty)):
        with contextlib.suppress(ValueError):
            step(lowgrad.ones(2))
        assert gc.isenabled()
