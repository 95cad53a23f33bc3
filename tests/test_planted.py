"""Planted bugs, each over the whole chain, each seen: no check counts until it has caught one.

A check passes as the code is, and fails once its bug is planted. More are planted beside what they
break: in the op registry's, the passes', the codegen's, the parser's and the verifier's own tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import autograd, dispatch, nn, optim, replay, signature
from lowgrad.ir import op as ir_op
from lowgrad.ir.op import REGISTRY
from lowgrad.ops import random as random_ops
from lowgrad.runtime import arena, memory
from lowgrad.runtime.cpu import chunks, erf, functions
from lowgrad.tensor import Tensor


def close(a, b) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)


# Checks ------------------------------------------------------------------------------------------


def gradients() -> None:
    """Eager gradients are PyTorch's."""
    data = np.linspace(-1, 1, 6).reshape(2, 3)
    found = []
    for t in (lowgrad, torch):
        x = t.tensor(data, requires_grad=True)
        y = t.tanh(x) * x + (x @ x.T).sum() - t.where(x > 0, x, x * 2)
        y = y + x.sum(0) * t.exp(x) / (x * x + 1)
        y.sum().backward()
        found.append(x.grad.tolist())
    close(*found)


def accumulation() -> None:
    """Gradients of two backward passes add up."""
    x = lowgrad.ones(2).requires_grad_()
    for _ in range(2):
        (x * 3).sum().backward()
    close(x.grad.tolist(), [6, 6])


def views() -> None:
    """Writing through a view writes to its base, and other views see it."""
    x = lowgrad.zeros(4)
    first, second = x[:3], x[1:]
    first[1] = 5.0
    close(second.tolist(), [5, 0, 0])
    close(x.tolist(), [0, 5, 0, 0])


def freed_tape() -> None:
    x = lowgrad.ones(2).requires_grad_()
    loss = (x * x).sum()
    loss.backward()
    with pytest.raises(lowgrad.AutogradError):
        loss.backward()


def low_precision_sums() -> None:
    close(lowgrad.ones(1000, dtype=lowgrad.bfloat16).sum().item(), 1000)


def _training(compiled: bool) -> list[float]:
    lowgrad.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.7)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = lowgrad.compile(step) if compiled else step
    x = lowgrad.arange(20).float().reshape(5, 4) / 10
    y = lowgrad.tensor([0, 1, 2, 0, 1])
    losses = []
    for _ in range(6):
        losses.append(run(x, y).item())
        schedule.step()
    return losses


def training() -> None:
    """Six compiled steps under a schedule are six eager steps."""
    close(_training(True), _training(False))


def closures() -> None:
    scale = 2.0

    def function(x):
        return x * scale

    compiled = lowgrad.compile(function)
    close(compiled(lowgrad.ones(1)).item(), 2)
    scale = 3.0
    close(compiled(lowgrad.ones(1)).item(), 3)


def attributes() -> None:
    class Holder:
        scale = 1.0

    holder = Holder()
    holder.scale = 2.0
    compiled = lowgrad.compile(lambda x: x * holder.scale)
    close(compiled(lowgrad.ones(1)).item(), 2)
    holder.scale = 3.0
    close(compiled(lowgrad.ones(1)).item(), 3)


def draws() -> None:
    """A compiled step draws what the eager one draws, and never the same again."""

    def function():
        return lowgrad.rand(3) + 2 * lowgrad.rand(3)

    runs = []
    for step in (function, lowgrad.compile(function)):
        lowgrad.manual_seed(1)
        runs.append([step().tolist() for _ in range(2)])
    assert runs[0] == runs[1]
    assert runs[1][0] != runs[1][1]


def philox() -> None:
    words = random_ops.philox4x32((0, 0, 0, 0), (0, 0))
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def copy_on_write() -> None:
    weight = lowgrad.ones(3).requires_grad_()
    loss = (weight * weight).sum()

    @lowgrad.compile
    def step():
        with lowgrad.no_grad():
            weight.add_(100)

    step()
    loss.backward()
    close(weight.grad.tolist(), [2, 2, 2])


def state() -> None:
    total = lowgrad.zeros(2)
    view = total[:1]
    step = lowgrad.compile(lambda x: total.add_(x))
    for _ in range(3):
        step(lowgrad.ones(2))
    close(total.tolist(), [3, 3])
    close(view.tolist(), [3])


def error_function() -> None:
    x = np.linspace(-5, 5, 101, dtype=np.float32)
    out = np.empty_like(x)
    erf.erf(x, out)
    np.testing.assert_allclose(out, [math.erf(v) for v in x], atol=3e-7)


def large_sums() -> None:
    """A sum over rows, done in chunks."""
    x = lowgrad.ones(4096, 256)
    step = lowgrad.compile(lambda x: (x * 2 + 1).sum(0))
    close(step(x).tolist(), [3 * 4096] * 256)


def overlaps() -> None:
    spans = [arena.Span(f"s{i}", 64, 0, i) for i in range(4)]
    arena.check(spans, arena.place(spans))


def kernels() -> None:
    """A row of negative numbers, shorter than its block, on the interpreter."""
    step = lowgrad.compile(lambda x: x.amax(1), device="interpret")
    close(step(-lowgrad.ones(3, 5)).tolist(), [-1, -1, -1])


# Bugs --------------------------------------------------------------------------------------------


def vjp(name: str, wrong: Callable) -> tuple:
    return (type(REGISTRY[name]), "vjp", wrong)


def overwrite_gradient(tensor, gradient, create_graph):
    tensor._set_gradient(autograd.wrap(gradient))


def rebind_without_version(self, ref):
    self._ref_now = ref


def zero_offsets(spans, **_):
    return arena.Placement((0,) * len(spans), sum(s.nbytes for s in spans), 0)


def input_as_it_is(source, found, owned, right=replay._input):
    return right(source, found, False)


BUGS: dict[str, tuple[Callable[[], None], tuple]] = {
    "a sign in tanh's vjp": (gradients, vjp("tanh", lambda s, g, o, x: (-(g * (1 - o * o)),))),
    "a dropped term in mul's vjp": (gradients, vjp("mul", lambda s, g, o, a, b: (g * b, None))),
    "a sign in sub's vjp": (gradients, vjp("sub", lambda s, g, o, a, b: (g, g))),
    "div's vjp without its denominator": (gradients, vjp("div", lambda s, g, o, a, b: (g, -g))),
    "where's branches swapped": (
        gradients,
        vjp("where", lambda s, g, o, c, a, b: (None, c.call("where", g * 0, g), g)),
    ),
    "gradients overwritten": (accumulation, (autograd, "_accumulate", overwrite_gradient)),
    "a write that views do not see": (views, (Tensor, "_rebind", rebind_without_version)),
    "a slice's put that drops the write": (
        views,
        (type(REGISTRY["slice"]), "put", lambda self, base, new, **attrs: base),
    ),
    "a tape that is never freed": (
        freed_tape,
        ("lowgrad.tape.Step", "release", lambda self: None),
    ),
    "sums in 16 bits": (low_precision_sums, (ir_op, "widen", lambda array: array)),
    "closures left out of the key": (closures, (signature.Walker, "_closure", lambda *_: None)),
    "attributes left out of the key": (
        attributes,
        (signature.Walker, "_instance", lambda self, obj, path: self.visit(type(obj), path)),
    ),
    "watches that never notice": (attributes, (signature.Snapshot, "is_unchanged", lambda s: True)),
    "the learning rate baked in": (
        training,
        (dispatch, "host_scalar", lambda read, key=None: read()),
    ),
    "effects dropped on replay": (state, (replay, "_apply_effects", lambda *_: None)),
    "step counts not repeated": (
        training,
        (dispatch, "host_update", lambda run: None if dispatch.is_recording() else run()),
    ),
    "the generator not advanced by replays": (
        draws,
        ("lowgrad.generator.Generator", "advance", lambda self, count: None),
    ),
    "the number of a draw ignored": (
        draws,
        (random_ops, "random_words", None),
    ),
    "nine rounds of Philox": (philox, (random_ops, "ROUNDS", 9)),
    "no copy on write": (copy_on_write, (replay, "_input", input_as_it_is)),
    "every buffer at offset 0": (overlaps, (arena, "place", zero_offsets)),
    "planned over one another": (training, (memory, "place", zero_offsets)),
    "a wrong coefficient in erf": (error_function, (erf, "ALPHA", (*erf.ALPHA[:-1], -0.0161))),
    "sub run as add": (training, (functions, "UFUNCS", {**functions.UFUNCS, "sub": "add"})),
    "the last chunk forgotten": (
        large_sums,
        (chunks.Chunks, "count", property(lambda c: c.size // c.rows - 1)),
    ),
    "a maximum that starts from 0": (
        kernels,
        (type(REGISTRY["max"]), "identity", lambda self, dtype: 0.0),
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_seen(name, monkeypatch):
    check, (owner, attribute, wrong) = BUGS[name]
    if name == "the number of a draw ignored":
        right = random_ops.random_words
        wrong = lambda count, key, offset: right(count, key, 0)  # noqa: E731
    check()

    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{attribute}", wrong)
    else:
        monkeypatch.setattr(owner, attribute, wrong)

    with pytest.raises(BaseException):  # noqa: B017, PT011  (in whatever way it shows)
        check()


def test_there_are_at_least_twenty():
    assert len(BUGS) >= 20
