"""Compiled steps on the GPU: the same numbers as on the CPU, by one CUDA graph a call."""

import models
import numpy as np
import pytest

import lowgrad

# Of queries, keys and values: the keys' bias has no gradient (softmax takes no notice of it), and
# Adam makes whole steps of what rounding leaves.
KEY_BIAS = (48,)


def everything(step):
    """The tensors that a step reaches, by the walk that makes its signature."""
    from lowgrad.signature import walk

    return walk(step, (), {}).tensors


def moved(step, device):
    """Put all state of a step on a device."""
    for tensor in everything(step):
        tensor.data = tensor.data.to(device)


def trained(make, device, calls=3, **options):
    """The losses of a few calls, and the state after them, from the same start."""
    lowgrad.manual_seed(11)
    step, batch = make()
    run = lowgrad.compile(step, **options)
    if device != "cpu":
        moved(step, device)
        batch = tuple(x.to(device) for x in batch)
    losses = [run(*batch) for _ in range(calls)]
    # Read late: results of one call must outlive the next ones.
    return [x.item() for x in losses], [t.detach().cpu().numpy() for t in everything(step)], run


@pytest.mark.parametrize("name", sorted(models.MODELS))
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
def test_a_step_trains_as_on_the_cpu(mock, name, fuse):
    expected, state, _ = trained(models.MODELS[name], "cpu", fuse=fuse)

    losses, found, run = trained(models.MODELS[name], "cuda", fuse=fuse)

    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    for one, other in zip(found, state, strict=True):
        if one.shape == KEY_BIAS:
            one, other = one.reshape(3, -1)[::2], other.reshape(3, -1)[::2]
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
    assert run.recordings == 1
    graphs = mock.calls("cuGraphLaunch")
    assert len(graphs) == 3, "one CUDA graph a step"
    assert len(mock.calls("cuGraphInstantiate")) == 1
