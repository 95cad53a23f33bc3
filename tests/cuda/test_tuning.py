"""`tune=True`: blocks of products are measured once, remembered, and used."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lowgrad
from lowgrad import config
from lowgrad.codegen.cuda import tune
from lowgrad.codegen.cuda.machine import tiling_for
from lowgrad.codegen.tiling import DotTiling
from lowgrad.errors import LaunchError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path):
    with config.changed(cache_root=tmp_path / "cache"):
        yield tmp_path / "cache"


@pytest.fixture
def clocked(mock, monkeypatch):
    """A clock by which the third choice is the fastest; what it was asked for."""
    asked = []

    def measure(kernels, device):
        asked.append(kernels)
        return 1.0 if len(asked) % tune.MOST == 3 else 2.0

    monkeypatch.setattr(tune, "milliseconds", measure)
    monkeypatch.setattr(tune, "functions", mock.functions)
    return asked


def step_of(**options):
    return lowgrad.compile(lambda x, w: (x @ w).relu(), **options)


def operands(dtype=lowgrad.bfloat16):
    lowgrad.manual_seed(0)
    return [lowgrad.randn(96, 64).to(dtype).cuda(), lowgrad.randn(64, 128).to(dtype).cuda()]


def test_the_fastest_choice_is_taken_and_the_result_the_same(clocked):
    x, w = operands()
    plain = step_of()(x, w)

    step = step_of(tune=True)
    made = step(x, w)

    assert len(clocked) == tune.MOST
    chosen = step.lower(x, w).tiling.tuned
    assert len(chosen) == 1
    kernels = step.lower(x, w).kernels
    assert kernels[0].constants == clocked[2][0].constants
    np.testing.assert_allclose(
        made.cpu().float().numpy(), plain.cpu().float().numpy(), rtol=1e-2, atol=1e-2
    )


def test_what_was_measured_is_remembered(clocked, empty_cache):
    x, w = operands()
    step_of(tune=True)(x, w)
    before = len(clocked)

    step_of(tune=True)(x, w)

    assert len(clocked) == before
    (file,) = (empty_cache / "tuned").iterdir()
    assert "cuda_90" in file.name
    (blocks,) = json.loads(file.read_text()).values()
    assert DotTiling(**blocks)


def test_a_damaged_memory_is_measured_anew(clocked, empty_cache):
    x, w = operands()
    step_of(tune=True)(x, w)
    (file,) = (empty_cache / "tuned").iterdir()
    file.write_text("{")

    step_of(tune=True)(x, w)

    assert len(clocked) == 2 * tune.MOST


def test_choices_that_the_gpu_refuses_are_left_out(mock, monkeypatch):
    def measure(kernels, device):
        measure.count += 1
        if measure.count <= 3:
            raise LaunchError("too much shared memory")
        return float(measure.count)

    measure.count = 0
    monkeypatch.setattr(tune, "milliseconds", measure)
    monkeypatch.setattr(tune, "functions", mock.functions)
    x, w = operands()
    step = step_of(tune=True)
    step(x, w)

    problem, node = next(
        iter(tune._products(step.lower(x, w).graph.nodes, tiling_for("cuda:90", "ieee")))
    )
    choices = tune.candidates(problem, tiling_for("cuda:90", "ieee"), tune.MOST)
    assert dict(step.lower(x, w).tiling.tuned)[repr(problem)] == choices[3]
    assert node.op.name == "fused"


def test_the_clock_runs_kernels_on_buffers_of_their_own(mock, monkeypatch):
    monkeypatch.setattr(tune, "functions", mock.functions)
    weight = lowgrad.randn(64, 64).cuda()

    @lowgrad.compile
    def step(x):
        weight.sub_((x.T @ x) * 0.1)
        return weight.sum()

    x = lowgrad.randn(32, 64).cuda()
    compiled = step.lower(x)
    before = weight.cpu().numpy()
    _, node = next(iter(tune._products(compiled.graph.nodes, compiled.tiling)))
    kernels = tune.lower(node, compiled.tiling)
    launched = len(mock.calls("cuLaunchKernelEx"))

    taken = tune.milliseconds(kernels, lowgrad.devices.gpu_of("cuda"))

    assert taken > 0
    runs = (tune.WARM + tune.ROUNDS * tune.RUNS) * len(kernels)
    assert len(mock.calls("cuLaunchKernelEx")) - launched == runs
    np.testing.assert_array_equal(weight.cpu().numpy(), before)


def test_without_a_gpu_nothing_is_measured():
    step = lowgrad.compile(lambda x: x @ x, tune=True)

    np.testing.assert_allclose(step(lowgrad.eye(3)).numpy(), np.eye(3))


def test_a_report_shows_what_was_measured(mock, monkeypatch, tmp_path):
    pytest.importorskip("jinja2")
    monkeypatch.setattr(tune, "functions", mock.functions)
    x, w = operands()

    text = step_of().lower(x, w).report(tmp_path / "step.html").read_text()

    assert ">Measured</th>" in text
    assert " ms</td>" in text
