"""Nothing that a step reads can go stale: change one thing between two calls, get the new result.

Each case makes a plain function, its arguments and a change. The compiled function must agree with
the plain one before the change, after it, and when called once more.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim

Case = tuple[Callable[..., Any], tuple[Any, ...], Callable[[], Any]]
CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__] = make
    return make


def ramp(*shape: int) -> lowgrad.Tensor:
    return lowgrad.arange(int(np.prod(shape))).float().reshape(*shape) / 7


X = ramp(2, 3)


@pytest.fixture(autouse=True)
def _fresh_globals():
    before = dict(globals())
    yield
    globals().update(before)


def assert_same(got, expected):
    if isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, lowgrad.Tensor):
        assert got.dtype is expected.dtype
        np.testing.assert_allclose(got.tolist(), expected.tolist(), rtol=1e-5, atol=1e-6)
    else:
        assert got == expected


# Python values ---------------------------------------------------------------------------------

SCALE = 2.0
FLAG = True
NAMES = ["a", "b"]
CONFIG = {"scale": 2.0, "deep": {"power": 2}}
INFINITE = float("nan")


@case
def global_float():
    def change():
        globals()["SCALE"] = 5.0

    return lambda x: x * SCALE, (X,), change


@case
def global_bool():
    def change():
        globals()["FLAG"] = False

    return lambda x: x + 1 if FLAG else x - 1, (X,), change


@case
def global_list_grown():
    def change():
        NAMES.append("c")
        return None

    return lambda x: x * len(NAMES), (X,), change


@case
def global_dict_item():
    def change():
        CONFIG["scale"] = 9.0

    return lambda x: x * CONFIG["scale"], (X,), change


@case
def nested_dict_item():
    def change():
        CONFIG["deep"]["power"] = 3

    return lambda x: x ** CONFIG["deep"]["power"], (X,), change


@case
def global_nan_becomes_number():
    def change():
        globals()["INFINITE"] = 1.0

    return lambda x: lowgrad.where(x > 1, INFINITE, x) == 1, (X,), change


@case
def closure_float():
    scale = 2.0

    def function(x):
        return x * scale

    def change():
        nonlocal scale
        scale = -1.0

    return function, (X,), change


@case
def closure_int_to_equal_float():
    divisor = 2

    def function(x):
        return (x * 4).long() // divisor

    def change():
        nonlocal divisor
        divisor = 2.0

    return function, (X,), change


@case
def closure_one_to_true():
    flag: Any = 1

    def function(x):
        return x + (10 if flag is True else 20)

    def change():
        nonlocal flag
        flag = True

    return function, (X,), change


@case
def closure_minus_zero():
    zero = 0.0

    def function(x):
        return 1 / (x * 0 + zero * lowgrad.ones(2, 3))

    def change():
        nonlocal zero
        zero = -0.0

    return function, (X,), change


@case
def closure_string():
    mode = "sum"

    def function(x):
        return x.sum() if mode == "sum" else x.mean()

    def change():
        nonlocal mode
        mode = "mean"

    return function, (X,), change


@case
def closure_none():
    bias: Any = None

    def function(x):
        return x if bias is None else x + bias

    def change():
        nonlocal bias
        bias = 3

    return function, (X,), change


@case
def closure_list_item():
    weights = [1.0, 2.0]

    def change():
        weights[1] = 7.0

    return lambda x: x * weights[0] + weights[1], (X,), change


@case
def closure_tuple_replaced():
    sizes = (2, 3)

    def function(x):
        return x.reshape(sizes)

    def change():
        nonlocal sizes
        sizes = (3, 2)

    return function, (X,), change


@case
def closure_set():
    chosen = {1}

    def change():
        chosen.add(2)

    return lambda x: x * sum(chosen), (X,), change


@case
def closure_deque():
    queue = deque([1.0])

    def change():
        queue.append(4.0)

    return lambda x: x + sum(queue), (X,), change


@case
def closure_ordered_dict_order():
    order = OrderedDict(a=1.0, b=2.0)

    def change():
        order.move_to_end("a")

    return lambda x: x * next(iter(order.values())), (X,), change


@case
def closure_namedtuple():
    Pair = namedtuple("Pair", "a b")
    pair = Pair(1.0, 2.0)

    def function(x):
        return x * pair.a + pair.b

    def change():
        nonlocal pair
        pair = Pair(3.0, 2.0)

    return function, (X,), change


class Mode(enum.Enum):
    UP = 1
    DOWN = 2


@case
def closure_enum():
    mode = Mode.UP

    def function(x):
        return x + 1 if mode is Mode.UP else x - 1

    def change():
        nonlocal mode
        mode = Mode.DOWN

    return function, (X,), change


@case
def closure_dtype():
    dtype = lowgrad.float32

    def function(x):
        return x.to(dtype)

    def change():
        nonlocal dtype
        dtype = lowgrad.float64

    return function, (X,), change


@case
def closure_numpy_scalar():
    scale = np.float64(2.0)

    def function(x):
        return x * float(scale)

    def change():
        nonlocal scale
        scale = np.float64(3.0)

    return function, (X,), change


@case
def numpy_array_mutated():
    table = np.array([1.0, 2.0])

    def change():
        table[0] = 10.0

    return lambda x: x * float(table[0]), (X,), change


@case
def default_argument():
    def function(x, scale=2.0):
        return x * scale

    def change():
        function.__defaults__ = (5.0,)

    return function, (X,), change


@case
def keyword_default():
    def function(x, *, scale=2.0):
        return x * scale

    def change():
        function.__kwdefaults__["scale"] = 5.0

    return function, (X,), change


@case
def function_attribute():
    def function(x):
        return x * function.scale

    function.scale = 2.0

    def change():
        function.scale = 4.0

    return function, (X,), change


@case
def partial_argument():
    inner = {"power": 2}
    function = functools.partial(lambda options, x: x ** options["power"], inner)

    def change():
        inner["power"] = 3

    return function, (X,), change


def _helper(x):
    return x + 1


@case
def helper_function_replaced():
    def change():
        globals()["_helper"] = lambda x: x + 2

    return lambda x: _helper(x), (X,), change


@case
def helper_reads_a_global():
    def helper(x):
        return x * SCALE

    def change():
        globals()["SCALE"] = 11.0

    return lambda x: helper(x), (X,), change


@case
def helper_code_replaced():
    def helper(x):
        return x + 1

    def other(x):
        return x + 5

    def change():
        helper.__code__ = other.__code__

    return lambda x: helper(x), (X,), change


# Objects ---------------------------------------------------------------------------------------


class Holder:
    level = 1.0

    def __init__(self):
        self.scale = 2.0

    def apply(self, x):
        return x * self.scale + self.level

    @property
    def doubled(self):
        return 2 * self.scale

    @staticmethod
    def shift(x):
        return x + SCALE


@case
def object_attribute():
    holder = Holder()

    def change():
        holder.scale = 3.0

    return lambda x: x * holder.scale, (X,), change


@case
def object_attribute_added():
    holder = Holder()

    def change():
        holder.extra = 3.0

    return lambda x: x * getattr(holder, "extra", 1.0), (X,), change


@case
def object_dict_shadows_class_attribute():
    holder = Holder()

    def change():
        holder.__dict__["level"] = 8.0

    return lambda x: holder.apply(x), (X,), change


@case
def class_attribute():
    class Local(Holder):
        level = 1.0

    holder = Local()

    def change():
        Local.level = 6.0

    return lambda x: holder.apply(x), (X,), change


@case
def property_reads_attribute():
    holder = Holder()

    def change():
        holder.scale = 4.0

    return lambda x: x * holder.doubled, (X,), change


@case
def static_method_reads_global():
    holder = Holder()

    def change():
        globals()["SCALE"] = 13.0

    return lambda x: holder.shift(x), (X,), change


@case
def bound_method():
    holder = Holder()

    def change():
        holder.scale = -2.0

    return holder.apply, (X,), change


@case
def method_replaced_on_class():
    class Local(Holder):
        def apply(self, x):
            return x

    holder = Local()

    def change():
        Local.apply = lambda self, x: x + 100

    return lambda x: holder.apply(x), (X,), change


@case
def dataclass_field():
    @dataclasses.dataclass
    class Config:
        scale: float = 2.0

    config = Config()

    def change():
        config.scale = 3.0

    return lambda x: x * config.scale, (X,), change


@case
def slots_field():
    class Config:
        __slots__ = ("scale",)

        def __init__(self):
            self.scale = 2.0

    config = Config()

    def change():
        config.scale = 3.0

    return lambda x: x * config.scale, (X,), change


@case
def nested_object():
    outer = types.SimpleNamespace(inner=types.SimpleNamespace(scale=2.0))

    def change():
        outer.inner.scale = 3.0

    return lambda x: x * outer.inner.scale, (X,), change


@case
def nested_object_replaced():
    outer = types.SimpleNamespace(inner=types.SimpleNamespace(scale=2.0))

    def change():
        outer.inner = types.SimpleNamespace(scale=3.0)

    return lambda x: x * outer.inner.scale, (X,), change


# Arguments -------------------------------------------------------------------------------------


@case
def argument_float():
    return lambda x, s: x * s, (X, 2.0), lambda: (X, 3.0)


@case
def argument_int_to_float():
    return lambda x, s: x.long() * s, (X, 2), lambda: (X, 2.0)


@case
def argument_bool():
    return lambda x, s: x if s else -x, (X, True), lambda: (X, False)


@case
def argument_none():
    return lambda x, s: x if s is None else x * s, (X, None), lambda: (X, X)


@case
def argument_dict():
    return lambda d: d["x"] * d["s"], ({"x": X, "s": 2.0},), lambda: ({"x": X, "s": 3.0},)


@case
def argument_list_length():
    return lambda xs: sum(xs[1:], xs[0]), ([X, X + 1],), lambda: ([X, X + 1, X + 2],)


@case
def argument_shape():
    return lambda x: x.sum(0) * x.shape[0], (X,), lambda: (ramp(5, 3),)


@case
def argument_rank():
    return lambda x: x.reshape(-1) + x.ndim, (X,), lambda: (ramp(6),)


@case
def argument_dtype():
    return lambda x: x * 2, (X,), lambda: (X.double(),)


@case
def argument_values():
    return lambda x: x * 2, (X,), lambda: (X + 1,)


@case
def argument_mutated_in_place():
    x = ramp(2, 3)

    def change():
        x.mul_(3)

    return lambda t: t + 1, (x,), change


@case
def argument_requires_grad():
    w = ramp(2, 3)

    def function(t):
        return 1.0 if t.requires_grad else 0.0

    def change():
        w.requires_grad_()

    return function, (w,), change


@case
def arguments_become_one_tensor():
    def function(a, b):
        a = a.clone()
        return a + b, 2.0 if a is b else 1.0

    return function, (X, X + 1), lambda: (X, X)


@case
def same_tensor_is_compared_by_identity():
    return lambda a, b: a * (2 if a is b else 1), (X, X), lambda: (X, X + 1)


@case
def argument_is_a_view_of_another():
    base = ramp(4)

    def function(a, b):
        return a * 2 + b.sum()

    return function, (base, ramp(2)), lambda: (base, base[1:3])


# Tensors of the world --------------------------------------------------------------------------


@case
def closure_tensor_replaced():
    w = ramp(3)

    def function(x):
        return x * w

    def change():
        nonlocal w
        w = ramp(3) + 4

    return function, (X,), change


@case
def closure_tensor_mutated():
    w = ramp(3)

    def change():
        w.add_(1)

    return lambda x: x * w, (X,), change


@case
def closure_tensor_shape():
    w = ramp(3)

    def function(x):
        return x * w

    def change():
        nonlocal w
        w = ramp(2, 3)

    return function, (X,), change


@case
def tensor_in_list_replaced():
    ws = [ramp(3), ramp(3) + 1]

    def change():
        ws[0] = ramp(3) + 2

    return lambda x: x * ws[0] + ws[1], (X,), change


@case
def tensor_written_through_a_view():
    w = ramp(3)
    first = w[:1]

    def change():
        first.fill_(50)

    return lambda x: x * w, (X,), change


# Modules ---------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.alpha = 2.0

    def forward(self, x):
        return self.fc(x) * self.alpha


def small() -> Small:
    lowgrad.manual_seed(0)
    return Small()


@case
def module_attribute():
    model = small()

    def change():
        model.alpha = 3.0

    return lambda x: model(x), (X,), change


@case
def module_dict_written():
    model = small()

    def change():
        model.__dict__["alpha"] = 3.0

    return lambda x: model(x), (X,), change


@case
def module_training_flag():
    model = small()
    model.forward = lambda x: model.fc(x) * (2.0 if model.training else 1.0)

    return lambda x: model(x), (X,), lambda: model.eval() and None


@case
def module_submodule_replaced():
    model = small()

    def change():
        lowgrad.manual_seed(5)
        model.fc = nn.Linear(3, 3)

    return lambda x: model(x), (X,), change


@case
def module_parameter_replaced():
    model = small()

    def change():
        model.fc.weight = nn.Parameter(ramp(3, 3))

    return lambda x: model(x), (X,), change


@case
def module_parameter_data_set():
    model = small()

    def change():
        model.fc.weight.data = ramp(3, 3)

    return lambda x: model(x), (X,), change


@case
def module_parameter_mutated():
    model = small()

    def change():
        with lowgrad.no_grad():
            model.fc.weight.mul_(2)

    return lambda x: model(x), (X,), change


@case
def module_bias_removed():
    model = small()

    def change():
        model.fc.bias = None

    return lambda x: model(x), (X,), change


@case
def module_state_loaded():
    model = small()
    other = small()

    def change():
        with lowgrad.no_grad():
            other.fc.weight.add_(1)
        model.load_state_dict(other.state_dict())

    return lambda x: model(x), (X,), change


@case
def sequential_appended():
    model = nn.Sequential(nn.Identity())

    def change():
        model.append(nn.ReLU())

    return lambda x: model(x - 0.3), (X,), change


@case
def module_list_item_replaced():
    model = nn.ModuleList([nn.ReLU()])

    def change():
        model[0] = nn.Sigmoid()

    return lambda x: model[0](x - 0.3), (X,), change


@case
def module_buffer_replaced():
    model = small()
    model.register_buffer("offset", ramp(3))
    model.forward = lambda x: x + model.offset

    def change():
        model.offset = ramp(3) + 1

    return lambda x: model(x), (X,), change


@case
def module_hyperparameter():
    layer = nn.LeakyReLU(0.1)

    def change():
        layer.negative_slope = 0.5

    return lambda x: layer(x - 0.3), (X,), change


@case
def module_forward_replaced():
    model = small()

    def change():
        model.forward = lambda x: x + 1

    return lambda x: model(x), (X,), change


@case
def weights_tied():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)

    def change():
        b.weight = a.weight

    return lambda x: b(a(x)), (X,), change


# Modes -----------------------------------------------------------------------------------------


@case
def default_dtype():
    def change():
        lowgrad.set_default_dtype(lowgrad.float64)

    return lambda x: lowgrad.ones(2), (X,), change


@pytest.fixture(autouse=True)
def _default_dtype():
    yield
    lowgrad.set_default_dtype(lowgrad.float32)


@case
def grad_mode():
    def function(x):
        return 1.0 if lowgrad.is_grad_enabled() else 0.0

    def change():
        lowgrad.set_grad_enabled(False)

    return function, (X,), change


@pytest.fixture(autouse=True)
def _grad_mode():
    yield
    lowgrad.set_grad_enabled(True)


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_seen(name):
    function, args, change = CASES[name]()
    compiled = lowgrad.compile(function)

    assert_same(compiled(*args), function(*args))
    changed_args = change()
    args = args if changed_args is None else changed_args
    for _ in range(2):
        assert_same(compiled(*args), function(*args))


def test_there_are_at_least_sixty_cases():
    assert len(CASES) >= 60


# Steps: what an optimizer reads ------------------------------------------------------------------

CHANGES: dict[str, Callable[[Any], None]] = {
    "lr": lambda o: o.param_groups[0].update(lr=0.5),
    "momentum": lambda o: o.param_groups[0].update(momentum=0.1),
    "momentum off": lambda o: o.param_groups[0].update(momentum=0.0),
    "weight decay on": lambda o: o.param_groups[0].update(weight_decay=0.1),
    "nesterov": lambda o: o.param_groups[0].update(nesterov=True),
    "maximize": lambda o: o.param_groups[0].update(maximize=True),
    "parameter frozen": lambda o: o.param_groups[0]["params"][0].requires_grad_(False),
    "parameter dropped": lambda o: o.param_groups[0]["params"].pop(),
    "state written": lambda o: next(iter(o.state.values()))["momentum_buffer"].mul_(3),
    "gradient left over": lambda o: None,
}


def _training(compiled: bool):
    lowgrad.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    target = ramp(2, 2)

    def step(x):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, lowgrad.compile(step) if compiled else step


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_optimizer_is_seen(name):
    runs = []
    for compiled in (False, True):
        model, optimizer, step = _training(compiled)
        losses = [step(X).item() for _ in range(2)]
        CHANGES[name](optimizer)
        losses += [step(X).item() for _ in range(3)]
        runs.append((losses, [p.tolist() for p in model.parameters()]))
    eager, recorded = runs

    np.testing.assert_allclose(recorded[0], eager[0], rtol=1e-5)
    for a, b in zip(recorded[1], eager[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_schedule_of_a_hundred_rates_is_recorded_once():
    _, optimizer, step = _training(True)
    _, eager_optimizer, eager = _training(False)
    schedules = [optim.lr_scheduler.ExponentialLR(o, 0.97) for o in (optimizer, eager_optimizer)]

    for _ in range(100):
        np.testing.assert_allclose(step(X).item(), eager(X).item(), rtol=1e-4, atol=1e-7)
        for schedule in schedules:
            schedule.step()

    assert step.recordings == 1
