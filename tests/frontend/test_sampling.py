import math

import numpy as np
import pytest

import lowgrad as torch
from lowgrad import ArgumentError, DTypeError

N = 100_000


def test_same_seed_same_numbers():
    for draw in (
        lambda: torch.rand(5),
        lambda: torch.randn(2, 3),
        lambda: torch.randint(0, 9, (4,)),
        lambda: torch.randperm(9),
        lambda: torch.bernoulli(torch.full((9,), 0.5)),
        lambda: torch.multinomial(torch.ones(9), 3),
    ):
        torch.manual_seed(3)
        first, second = draw(), draw()
        torch.manual_seed(3)
        assert torch.equal(draw(), first)
        assert not torch.equal(first, second) or first.numel() < 9
        state = torch.get_rng_state()
        third = draw()
        torch.set_rng_state(state)
        assert torch.equal(draw(), third)


def test_generators_are_independent_of_the_default_stream():
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    first = torch.rand(3, generator=a)
    torch.rand(5)
    assert torch.equal(torch.rand(3, generator=b), first)
    assert a.initial_seed() == 1
    assert torch.initial_seed() != a.seed()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_uniform(dtype):
    torch.manual_seed(0)
    x = torch.rand(N, dtype=dtype)
    assert x.dtype is dtype
    x = x.double().numpy()
    assert x.min() >= 0
    assert x.max() < 1 or dtype.is_low_precision
    assert abs(x.mean() - 0.5) < 4 * math.sqrt(1 / 12 / N) + 2e-3 * dtype.is_low_precision
    counts = np.histogram(x, 16, (0, 1))[0]
    assert ((counts - N / 16) ** 2 / (N / 16)).sum() < 60 or dtype.is_low_precision


def test_normal():
    torch.manual_seed(0)
    x = torch.randn(N, dtype=torch.float64).numpy()
    assert abs(x.mean()) < 4 / math.sqrt(N)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / N)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / N)
    assert abs((np.abs(x) < 1).mean() - 0.682689) < 4 * math.sqrt(0.22 / N)
    assert 1 < (np.abs(x) > 3.8).sum() < 45  # 14.5 expected: the tails are not cut
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 4 / math.sqrt(N)


def test_integers():
    torch.manual_seed(0)
    x = torch.randint(-2, 3, (N,))
    assert x.dtype is torch.int64
    counts = torch.bincount(x + 2).numpy()
    assert len(counts) == 5
    assert abs(counts - N / 5).max() < 4 * math.sqrt(N * 0.16)
    assert torch.randint(5, (2, 3)).shape == (2, 3)
    assert torch.randint(0, 2, (3,), dtype=torch.int32).dtype is torch.int32
    assert torch.randint_like(x[:4], 3).max() < 3
    with pytest.raises(ArgumentError, match="high must be above low"):
        torch.randint(3, 3, (2,))


def test_permutations():
    torch.manual_seed(0)
    for n in (0, 1, 2, 50):
        assert sorted(torch.randperm(n).tolist()) == list(range(n))
    first = [int(torch.randperm(4)[0]) for _ in range(400)]
    assert all(60 < first.count(i) < 140 for i in range(4))


def test_bernoulli_and_multinomial():
    torch.manual_seed(0)
    p = torch.tensor([0.0, 0.25, 1.0])
    rates = torch.bernoulli(p.expand(N, 3)).mean(0)
    assert rates[0] == 0
    assert rates[2] == 1
    assert abs(rates[1] - 0.25) < 4 * math.sqrt(0.19 / N)
    weights = torch.tensor([1.0, 0.0, 3.0])
    drawn = torch.bincount(torch.multinomial(weights, 10_000, replacement=True), minlength=3)
    assert drawn[1] == 0
    assert abs(drawn[2].item() / 10_000 - 0.75) < 0.02
    rows = torch.multinomial(weights.expand(50, 3), 2)
    assert rows.shape == (50, 2)
    assert all(sorted(r) == [0, 2] for r in rows.tolist())
    with pytest.raises(ArgumentError, match="cannot draw 4 of 3"):
        torch.multinomial(weights, 4)


def test_normal_of_tensors_and_in_place():
    torch.manual_seed(0)
    assert torch.normal(torch.zeros(3), 1.0).shape == (3,)
    assert torch.normal(0.0, 2.0, (4, 2)).shape == (4, 2)
    x = torch.empty(N)
    assert abs(x.uniform_(-2, 4).mean() - 1) < 0.03
    assert abs(x.normal_(3, 0.5).std() - 0.5) < 0.01
    assert abs(x.bernoulli_(0.3).mean() - 0.3) < 0.01
    assert torch.rand_like(x).shape == torch.randn_like(x).shape == x.shape


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (2, 3, 4)])
def test_shapes_and_options(shape):
    for make in (torch.rand, torch.randn):
        assert make(shape).shape == make(*shape).shape == shape
        x = make(shape, requires_grad=True)
        assert x.is_leaf
        assert x.requires_grad
    with pytest.raises(DTypeError, match="needs a floating dtype"):
        torch.randn(shape, dtype=torch.int64)


def test_no_value_repeats_in_neighbouring_lanes():
    torch.manual_seed(0)
    x = torch.rand(64, 64, dtype=torch.float64)
    for y in (x.flatten(), x.T.flatten()):
        assert (y[1:] != y[:-1]).all()
    assert torch.unique(x).numel() == x.numel()
