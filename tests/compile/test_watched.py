"""`compile(check=, nan=, drift=)`: wrong kernels, NaN, stale recordings, each by its line."""

from __future__ import annotations

import os

import models
import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import config
from lowgrad.codegen.triton import emit
from lowgrad.errors import ArgumentError, CompileError, KernelCheckError, NaNError
from lowgrad.runtime.cpu import functions


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What is saved for a fault is saved in a folder of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_a_right_step_passes_every_check(name, device):
    if device == "interpret":
        pytest.importorskip("triton")
    lowgrad.manual_seed(3)
    step, batch = models.MODELS[name]()
    plain, twin = models.MODELS[name], None
    lowgrad.manual_seed(3)
    twin, _ = plain()

    watched = lowgrad.compile(step, device=device, check=True, nan="raise", drift=2)
    unwatched = lowgrad.compile(twin, device=device)

    losses = [watched(*batch).item() for _ in range(3)]
    lowgrad.manual_seed(3)
    plain()
    assert np.isfinite(losses).all()
    assert unwatched(*batch).item() == pytest.approx(losses[0], rel=1e-6) or name.startswith("drop")


def test_on_a_gpu_too(mock_step):
    watched, x = mock_step

    assert watched(x).item() == pytest.approx(float((x * 2).sum().item()))


@pytest.fixture
def mock_step(monkeypatch):
    pytest.importorskip("cuda.bindings")
    pytest.importorskip("triton")
    import mock_gpu

    if mock_gpu.compiler() is None:
        pytest.skip("no C compiler for the mock driver")
    with mock_gpu.mocked(monkeypatch):
        x = lowgrad.randn(40).cuda()
        yield lowgrad.compile(lambda x: (x * 2).sum(), check=True, nan="raise"), x


def test_a_wrong_kernel_is_named_with_its_line_and_inputs(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    weight = lowgrad.randn(8, 8)

    @lowgrad.compile(device="interpret", check=True)
    def step(x):
        hidden = x @ weight
        return F.softmax(hidden, dim=-1) * 3.0

    right = emit.literal
    monkeypatch.setattr(emit, "literal", lambda value: right(3.5 if value == 3.0 else value))
    with pytest.raises(KernelCheckError, match=r"(?s)call 1 of step: .*div.* differs") as e:
        step(lowgrad.randn(5, 8))

    assert "test_watched.py" in str(e.value)
    saved = sorted(p.name for p in (tmp_path / "lowgrad-check").iterdir())
    assert [name.rsplit(".")[-1] for name in saved] == ["ir", "npz"]
    text = (tmp_path / "lowgrad-check" / saved[0]).read_text()
    graph = lowgrad.ir.parse(text)
    with np.load(tmp_path / "lowgrad-check" / saved[1]) as arrays:
        made = lowgrad.ir.interpret(graph, *arrays.values())
    np.testing.assert_allclose(made[0].sum(-1), 3.0, rtol=1e-5)


def test_a_wrong_function_of_the_cpu_is_named(monkeypatch):
    monkeypatch.setattr(functions, "UFUNCS", {**functions.UFUNCS, "sub": "add"})
    step = lowgrad.compile(lambda x, y: (x - y).exp(), check=True)

    with pytest.raises(KernelCheckError, match="differs from the reference by"):
        step(lowgrad.randn(50), lowgrad.randn(50))


def test_a_fault_leaves_the_state_as_it_was(monkeypatch):
    weight = lowgrad.ones(6)

    @lowgrad.compile(check=True)
    def step(x):
        weight.add_((x - 1.0).exp())
        return weight.sum()

    monkeypatch.setattr(functions, "UFUNCS", {**functions.UFUNCS, "sub": "add"})
    with pytest.raises(KernelCheckError):
        step(lowgrad.zeros(6))

    assert weight.tolist() == [1.0] * 6


def test_every_kth_call_is_checked(monkeypatch):
    step = lowgrad.compile(lambda x, y: (x - y).exp(), check=3)
    x, y = lowgrad.randn(50), lowgrad.randn(50)
    step(x, y)  # the first is
    entry = next(iter(step._entries.values()))[0]
    checked = entry.compiled.executable
    right = checked.run
    monkeypatch.setattr(checked, "run", lambda arrays: [a + 1 for a in right(arrays)])
    step(x, y)
    step(x, y)

    with pytest.raises(KernelCheckError, match=r"(?s)call 4 of .* each kernel alone does not"):
        step(x, y)


def test_nan_is_traced_to_the_op_the_line_and_the_element():
    @lowgrad.compile(nan="raise")
    def step(x):
        shares = x / x.sum(dim=1, keepdim=True)
        return shares.log().mean()

    x = lowgrad.rand(3, 4) + 0.5
    step(x)
    x[1] = 0.0

    with pytest.raises(NaNError) as error:
        step(x)

    text = str(error.value)
    assert "call 2 of step: div made the first NaN, at [1, 0] of f32[3,4]" in text
    assert "x  f32[3,4]: 0 there" in text
    assert "test_watched.py" in text


def test_an_infinite_operand_is_said_with_who_made_it():
    @lowgrad.compile(nan="raise")
    def step(x):
        return (x.exp() - x.exp() * 1.0).sum()

    with pytest.raises(NaNError) as error:
        step(lowgrad.full((3,), 1000.0))

    assert "inf there, from exp at" in str(error.value)


def test_nan_that_came_with_the_state_is_said():
    weight = lowgrad.tensor([1.0, float("nan"), 2.0])
    step = lowgrad.compile(lambda x: (x * weight).sum(), nan="raise")

    with pytest.raises(NaNError, match=r"holds NaN at \[1\] before the step"):
        step(lowgrad.ones(3))


def test_a_nan_that_is_masked_is_none():
    @lowgrad.compile(nan="raise")
    def step(x):
        return lowgrad.where(x > 0, x.log(), 0.0).sum()

    assert np.isfinite(step(lowgrad.tensor([-1.0, 1.0])).item())


def test_an_update_with_nan_is_not_made():
    weight = lowgrad.ones(4)

    @lowgrad.compile(nan="raise")
    def step(x):
        weight.mul_(x.log())
        return weight.sum()

    with pytest.raises(NaNError, match="log made the first NaN"):
        step(-lowgrad.ones(4))

    assert weight.tolist() == [1.0] * 4


def test_drift_names_the_line(monkeypatch):
    monkeypatch.setenv("FACTOR", "2")

    @lowgrad.compile(drift=4)
    def step(x):
        y = x + 1.0
        return y * float(os.environ["FACTOR"])

    for _ in range(3):
        step(lowgrad.ones(3))
    monkeypatch.setenv("FACTOR", "3")

    with pytest.raises(
        CompileError, match=r"(?s)again after 4 calls.*: full is the first"
    ) as error:
        step(lowgrad.ones(3))
    assert "test_watched.py" in str(error.value)
    then, now = error.value.operands
    assert "value=2.0" in then
    assert "value=3.0" in now


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"check": -1}, "check=-1 is no number of calls"),
        ({"nan": "warn"}, 'nan=\'warn\'; it is "ignore" or "raise"'),
        ({"drift": "often"}, "drift='often' is no number of calls"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        lowgrad.compile(lambda x: x, **options)


def test_faults_are_saved_where_dumps_go(tmp_path, monkeypatch):
    monkeypatch.setattr(functions, "UFUNCS", {**functions.UFUNCS, "sub": "add"})
    step = lowgrad.compile(lambda x, y: (x - y).exp(), check=True)

    with config.changed(dump_dir=tmp_path / "dumps"), pytest.raises(KernelCheckError):
        step(lowgrad.randn(9), lowgrad.randn(9))

    assert len(list((tmp_path / "dumps").glob("*.npz"))) == 1
