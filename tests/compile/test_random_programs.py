"""Random programs: eager, compiled (fused and not) and PyTorch agree, in values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lowgrad

# Each takes two tensors of one shape (rows, columns) and gives one; `t` is either library.
STEPS = {
    "add": lambda t, a, b: a + b,
    "sub": lambda t, a, b: a - b * 0.5,
    "mul": lambda t, a, b: a * b,
    "div": lambda t, a, b: a / (b * b + 1),
    "tanh": lambda t, a, b: t.tanh(a),
    "sigmoid": lambda t, a, b: t.sigmoid(a) * b,
    "exp": lambda t, a, b: t.exp(-(a * a)),
    "log1p": lambda t, a, b: t.log1p(a * a),
    "where": lambda t, a, b: t.where(a > b, a, b * 2),
    "maximum": lambda t, a, b: t.maximum(a, b),
    "clamp": lambda t, a, b: a.clamp(-0.7, 0.9),
    "row sums": lambda t, a, b: a - b.sum(1, keepdim=True),
    "column means": lambda t, a, b: a - b.sum(0, keepdim=True) * 0.1,
    "total": lambda t, a, b: a + b.sum() * 0.01,
    "softmax": lambda t, a, b: t.softmax(a, 1) * b,
    "log_softmax": lambda t, a, b: t.log_softmax(a, -1),
    "norm": lambda t, a, b: a / (1 + b.norm()),
    "matmul": lambda t, a, b: (a @ b.T) @ a * 0.1,
    "transposed": lambda t, a, b: (a.T * 2).T + b,
    "reshape": lambda t, a, b: (a.reshape(-1) + 1).reshape(b.shape),
    "flip": lambda t, a, b: a.flip(0) + b,
    "halves": lambda t, a, b: t.cat([a[:, :1], b[:, 1:]], 1),
    "stack": lambda t, a, b: t.stack([a, b]).sum(0),
    "cumsum": lambda t, a, b: a.cumsum(1) * 0.3,
    "sort": lambda t, a, b: t.sort(a, 1).values + b,
    "gather": lambda t, a, b: a.gather(1, t.zeros_like(a).long()) + b,
    "index": lambda t, a, b: a[t.arange(a.shape[0]) * 0] + b,
    "expand": lambda t, a, b: a[:1].expand(a.shape) * b,
    "detach": lambda t, a, b: a * b.detach(),
    "written": lambda t, a, b: _written(a, b),
    "through a view": lambda t, a, b: _through_view(a, b),
    "half precision": lambda t, a, b: a.to(t.bfloat16).to(a.dtype) * 0 + b,
    "integers": lambda t, a, b: a + (b > 0).long().sum(),
}


def _written(a: Any, b: Any) -> Any:
    c = a.clone()
    c[0] = b[0] * 2
    c += 1
    return c


def _through_view(a: Any, b: Any) -> Any:
    c = a * 1
    c.view(-1)[1:].mul_(2)
    return c + b


def program(names: list[str], t: Any, x: Any, w: Any) -> Any:
    values = [x, w]
    for number, name in enumerate(names):
        values.append(STEPS[name](t, values[-1], values[(number * 7) % len(values)]))
    return values[-1]


def with_gradients(t: Any, names: list[str], x: Any, w: Any) -> tuple[Any, ...]:
    result = program(names, t, x, w)
    loss = (result * result).mean()
    gradients = t.autograd.grad(loss, (x, w), allow_unused=True)
    zeros = t.zeros_like(x)
    return (result, loss, *(zeros if g is None else g for g in gradients))


def arrays(tensors: tuple[Any, ...]) -> list[np.ndarray]:
    return [np.asarray(t.detach().tolist()) for t in tensors]


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=8),
    rows=st.sampled_from([1, 2, 3, 5]),
    columns=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 3),
)
def test_eager_compiled_and_pytorch_agree(fuse, names, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x, w = (rng.uniform(-1, 1, (rows, columns)) for _ in range(2))

    def own() -> tuple[Any, Any]:
        return tuple(lowgrad.tensor(a, requires_grad=True) for a in (x, w))

    eager = arrays(with_gradients(lowgrad, names, *own()))
    compiled = lowgrad.compile(lambda a, b: with_gradients(lowgrad, names, a, b), fuse=fuse)
    recorded = arrays(compiled(*own()))
    replayed = arrays(compiled(*own()))
    theirs = (torch.tensor(a, requires_grad=True) for a in (x, w))
    expected = arrays(with_gradients(torch, names, *theirs))

    for ours, first, second, reference in zip(eager, recorded, replayed, expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(first, ours, rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(second, first)


@pytest.mark.parametrize("name", sorted(STEPS))
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (2, 0)], ids=str)
def test_each_step_alone_in_float32(name, shape):
    rng = np.random.default_rng(0)
    x, w = (rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(2))

    got = lowgrad.compile(lambda a, b: STEPS[name](lowgrad, a, b))(
        lowgrad.tensor(x), lowgrad.tensor(w)
    )
    expected = STEPS[name](torch, torch.tensor(x), torch.tensor(w))

    np.testing.assert_allclose(got.tolist(), expected.tolist(), rtol=1e-5, atol=1e-5)
