"""Sorted scatters and sorts on the GPU: steps, eager ops, and the scratch between their kernels."""

import gc

import numpy as np
import pytest

import lowgrad
from lowgrad import nn, optim

TOKENS = 200  # more than a place of the result looks for itself


def looked_up(device):
    """A step that trains an embedding, and its table."""
    lowgrad.manual_seed(0)
    table = nn.Embedding(30, 16).to(device)
    optimizer = optim.SGD(table.parameters(), lr=0.5)

    @lowgrad.compile
    def step(tokens):
        optimizer.zero_grad()
        loss = table(tokens).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, table


def tokens(device, high=30):
    g = lowgrad.Generator().manual_seed(1)
    return lowgrad.randint(0, high, (4, TOKENS // 4), generator=g).to(device)


@pytest.mark.parametrize("high", [30, 1], ids=["many words", "one word"])
def test_an_embedding_learns_as_on_the_cpu(gpu, high):
    weights = []
    for device in ("cpu", gpu):
        step, table = looked_up(device)
        for _ in range(3):
            loss = step(tokens(device, high))
        weights.append((loss.item(), table.weight.detach().cpu().numpy()))

    (loss, want), (found, got) = weights
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_gradients_have_the_same_bits_each_time(gpu):
    first, second = (looked_up(gpu) for _ in range(2))
    for step, _ in (first, second):
        step(tokens(gpu))

    one, other = (table.weight.detach().cpu().numpy() for _, table in (first, second))
    assert one.tobytes() == other.tobytes()


def test_a_step_holds_what_its_plan_says_of_the_scratch(mock):
    step, _ = looked_up("cuda")
    x = tokens("cuda")
    compiled = step.lower(x)
    gc.collect()
    lowgrad.cuda.synchronize()
    before = mock.used
    mock.reset()

    step(x)
    lowgrad.cuda.synchronize()

    plan = compiled.plan
    scalars = 64 * sum(v.type.shape == () for v in compiled.graph.inputs)
    assert plan.scratch, "the sorted list lies in the arena"
    assert mock.peak - before == plan.arena_bytes + scalars
    assert "index_add_segments" in [kernel.name for kernel in compiled.kernels]


def test_adding_at_indices_eagerly(gpu):
    rng = np.random.default_rng(0)
    base, source = rng.integers(-3, 4, (7, 5)), rng.integers(-3, 4, (TOKENS, 5))
    index = rng.integers(0, 7, TOKENS)
    x, i, s = (
        lowgrad.tensor(a.astype(t)).to(gpu) for a, t in ((base, "f"), (index, int), (source, "f"))
    )

    added = x.index_add(0, i, s)
    put = x.index_put((i,), s, accumulate=True)

    want = base.astype("f")
    np.add.at(want, index, source)
    np.testing.assert_array_equal(added.cpu().numpy(), want)
    np.testing.assert_array_equal(put.cpu().numpy(), want)


def test_the_gradient_of_take_along_dim(gpu):
    rng = np.random.default_rng(0)
    x = lowgrad.tensor(rng.normal(size=(3, 8)).astype("f")).to(gpu).requires_grad_()
    index = rng.integers(0, 8, (3, TOKENS))

    x.take_along_dim(lowgrad.tensor(index).to(gpu), 1).sum().backward()

    want = np.stack([np.bincount(row, minlength=8) for row in index])
    np.testing.assert_array_equal(x.grad.cpu().numpy(), want.astype("f"))


def test_sort_argsort_and_topk_of_long_lines(gpu):
    x = np.random.default_rng(0).integers(0, 50, (2, 600)).astype("f")
    t = lowgrad.tensor(x).to(gpu)

    values, places = t.sort(dim=1, stable=True)
    best = t.topk(7, 1)

    order = np.argsort(x, 1, kind="stable")
    np.testing.assert_array_equal(places.cpu().numpy(), order)
    np.testing.assert_array_equal(values.cpu().numpy(), np.sort(x, 1))
    np.testing.assert_array_equal(t.argsort(1).cpu().numpy(), order)
    np.testing.assert_array_equal(best.values.cpu().numpy(), -np.sort(-x, 1)[:, :7])


def test_a_result_that_lies_where_its_base_did_is_not_copied(mock):
    step, _ = looked_up("cuda")
    x = tokens("cuda")
    compiled = step.lower(x)
    (node,) = (n for n in compiled.graph.nodes if n.op.name == "index_add")
    mock.reset()

    step(x)
    lowgrad.cuda.synchronize()

    assert compiled.plan.reused[node.output] is node.inputs[0]
    assert "index_add_base" in [kernel.name for kernel in compiled.kernels]
    launched = [line.split()[1] for line in mock.calls("cuGraphAddKernelNode")]
    assert "index_add_segments" in launched
    assert "index_add_base" not in launched
