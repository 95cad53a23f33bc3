"""Few long rows on the GPU: programs share them, and what they find lies in the node's scratch."""

import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F

SHAPE = (2, 70001)


def norm_and_gradient(x):
    x = x.detach().requires_grad_(True)
    y = F.layer_norm(x, SHAPE[1:])
    return y, lowgrad.autograd.grad((y * y * y).sum(), (x,))[0]


def loss_and_gradient(x):
    x = x.detach().requires_grad_(True)
    loss = F.cross_entropy(x, lowgrad.tensor([70000, 5], device=x.device))
    return loss, lowgrad.autograd.grad(loss, (x,))[0]


FUNCTIONS = {
    "softmax": lambda x: lowgrad.softmax(x, 1),
    "layer_norm": norm_and_gradient,
    "cross_entropy": loss_and_gradient,
    "places": lambda x: (x.argmax(1), x.argmin(), x.var(), x.amax(1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_few_long_rows_give_what_the_cpu_gives(gpu, name):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32) + 3
    f = FUNCTIONS[name]

    got = lowgrad.compile(f)(lowgrad.tensor(x, device=gpu))

    want = f(lowgrad.tensor(x))
    results = zip(got, want, strict=True) if isinstance(got, tuple) else [(got, want)]
    for on_gpu, on_cpu in results:
        exact = on_cpu.detach().numpy()
        size = 1 + np.abs(exact).max() if name != "softmax" else np.abs(exact).max()
        found = on_gpu.detach().cpu().numpy()
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5 * size)
