"""Autocast and GradScaler on the GPU: PyTorch's tables for it, and whole steps."""

import models
import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import autocasting, nn, optim
from lowgrad.amp import GradScaler

BF16, F32 = lowgrad.bfloat16, lowgrad.float32
CALLS = {
    "linear": (lambda x: F.linear(x, x), BF16),
    "matmul": (lambda x: x @ x, BF16),
    "attention": (lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]), BF16),
    "einsum": (lambda x: lowgrad.einsum("ij,jk->ik", x, x), BF16),
    "softmax": (lambda x: F.softmax(x, -1), F32),
    "log_softmax": (lambda x: x.log_softmax(-1), F32),
    "layer_norm": (lambda x: F.layer_norm(x, (4,)), F32),
    "rms_norm": (lambda x: F.rms_norm(x, (4,)), F32),
    "exp": (lambda x: x.exp(), F32),
    "pow": (lambda x: x**2, F32),
    "sum": (lambda x: x.sum(), F32),
    "cumsum": (lambda x: x.cumsum(0), F32),
    "cross_entropy": (lambda x: F.cross_entropy(x, lowgrad.arange(4, device=x.device)), F32),
    "mse_loss": (lambda x: F.mse_loss(x, x), F32),
    # Without a policy: the type that they are given, though they are made of exp, sum, ...
    "gelu": (lambda x: F.gelu(x), None),
    "silu": (lambda x: F.silu(x), None),
    "sigmoid": (lambda x: x.sigmoid(), None),
    "mean": (lambda x: x.mean(0), None),
    "std": (lambda x: x.std(), None),
    "relu": (lambda x: F.relu(x), None),
    "add": (lambda x: x + x, None),
}


@pytest.mark.parametrize("given", [F32, BF16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", CALLS)
def test_a_function_runs_in_the_type_that_pytorchs_table_says(gpu, name, given):
    call, wanted = CALLS[name]
    x = lowgrad.rand(4, 4, device=gpu).to(given) + 0.5
    with lowgrad.autocast("cuda", dtype=BF16):
        assert call(x).dtype is (wanted or given)
    assert autocasting.state.depth == 0


def test_binary_cross_entropy_is_refused(gpu):
    x = lowgrad.full((3,), 0.5, device=gpu)
    with lowgrad.autocast("cuda"), pytest.raises(lowgrad.AutogradError, match="unsafe"):
        F.binary_cross_entropy(x, x)


def trained(device, way, *, scaled, calls=5):
    """The losses and weights of a small net in mixed precision."""
    lowgrad.manual_seed(3)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4)).to(device)
    optimizer = optim.AdamW(net.parameters(), lr=0.01)
    scaler = GradScaler(device, init_scale=2.0**10, enabled=scaled)
    x = lowgrad.randn(8, 16).to(device)
    y = lowgrad.randint(0, 4, (8,)).to(device)

    def step(x, y, factor):
        optimizer.zero_grad()
        with lowgrad.autocast("cuda", dtype=lowgrad.float16 if scaled else BF16):
            loss = F.cross_entropy(net(x), y)
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    run = lowgrad.compile(step) if way == "compiled" else step
    factors = [1.0, float("inf") if scaled else 1.0, 1.0, 1.0, 1.0][:calls]
    losses = [run(x, y, lowgrad.tensor(f).to(device)).item() for f in factors]
    assert all(p.dtype is F32 for p in net.parameters())
    counts = {optimizer.state[p]["step"] for p in net.parameters()}
    return losses, [p.tolist() for p in net.parameters()], scaler.get_scale(), counts


@pytest.mark.parametrize("scaled", [False, True], ids=["bf16", "f16 scaled"])
def test_a_compiled_step_is_the_eager_one(gpu, scaled):
    eager = trained(gpu, "eager", scaled=scaled)
    compiled = trained(gpu, "compiled", scaled=scaled)

    np.testing.assert_allclose(compiled[0], eager[0], rtol=5e-3)
    assert compiled[2:] == eager[2:]
    assert compiled[3] == {4 if scaled else 5}, "the skipped step is not counted"
    assert compiled[0][-1] < compiled[0][0]


def test_a_transformer_in_bfloat16(gpu):
    lowgrad.manual_seed(1)
    step, batch = models.MODELS["gpt"]()
    expected = lowgrad.compile(step)(*batch).item()
    lowgrad.manual_seed(1)
    step, batch = models.MODELS["gpt"]()
    from lowgrad.signature import walk

    for tensor in walk(step, (), {}).tensors:
        tensor.data = tensor.data.to(gpu)

    def mixed(*args):
        with lowgrad.autocast("cuda", dtype=BF16):
            return step(*args)

    loss = lowgrad.compile(mixed)(*(x.to(gpu) for x in batch))
    assert abs(loss.item() - expected) < 0.02
