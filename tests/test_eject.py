"""`c.eject`: the file runs by itself, gives the step's numbers, and does what is changed in it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mock_gpu
import models
import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn
from lowgrad.codegen.cuda.schedule import At, Base, CopyCall
from lowgrad.eject.names import Names
from lowgrad.eject.rolled import rolled
from lowgrad.errors import ArgumentError

pytest.importorskip("triton")

# Makes an import of lowgrad fail: the file must do without.
ALONE = "import sys, runpy; sys.modules['lowgrad'] = None; sys.argv = sys.argv[1:]; "
ALONE += "runpy.run_path(sys.argv[0], run_name='__main__')"


def run(path, *arguments):
    """What the file prints, as {name: text}."""
    command = [sys.executable, "-c", ALONE, str(path), "--interpret", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [line.partition(" = ")[2] for line in done.stdout.splitlines()]


def changed(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1, old
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_an_ejected_step_prints_the_loss_of_the_step(tmp_path, name):
    lowgrad.manual_seed(2)
    step, batch = models.MODELS[name]()
    step = lowgrad.compile(step)
    path = step.lower(*batch).eject(tmp_path / "step.py")

    printed = run(path)
    expected = step(*batch).item()

    np.testing.assert_allclose(float(printed[0]), expected, rtol=2e-5)


def test_what_it_cannot_run_on_is_said_in_a_line(tmp_path):
    compiled = lowgrad.compile(lambda x: (x * 2).sum()).lower(lowgrad.ones(4))
    path = compiled.eject(tmp_path / "step.py")

    def fails(*arguments):
        command = [sys.executable, str(path), *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "no NVIDIA GPU to run on" in fails()
    np.savez(path.with_suffix(".npz"), x=np.ones(5, np.float32))
    assert "step.npz: x has shape (5,), the step takes (4,)" in fails("--interpret")


def test_what_is_no_ejected_step_is_not_overwritten(tmp_path):
    compiled = lowgrad.compile(lambda x: (x * 2).sum()).lower(lowgrad.ones(4))
    mine, data = tmp_path / "step.py", tmp_path / "other.npz"
    mine.write_text("print('mine')\n")
    data.write_bytes(b"mine")

    for path in (mine, data.with_suffix(".py")):
        with pytest.raises(ArgumentError, match="is not overwritten"):
            compiled.eject(path)
    assert mine.read_text() == "print('mine')\n"
    assert data.read_bytes() == b"mine"
    again = compiled.eject(compiled.eject(tmp_path / "new.py"))
    assert "Written by lowgrad" in again.read_text()


@pytest.fixture
def large_head():
    """A head so large that its rows go in pieces."""
    lowgrad.manual_seed(0)
    head = nn.Linear(16, 6000)
    optimizer = lowgrad.optim.SGD(head.parameters(), lr=0.5)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, lowgrad.randn(96, 16), lowgrad.randint(0, 6000, (96,))


def test_pieces_of_a_row_loop_are_a_loop(tmp_path, large_head):
    step, x, y = large_head
    for_gpu = lowgrad.compile(step, device="cuda", target="cuda:90", memory="2MB")
    path = for_gpu.lower(x, y).eject(tmp_path / "step.py")

    text = path.read_text()
    assert re.search(r"    for piece in range\(\d+\):", text)
    assert re.search(r"x_ptr=x \+ \d+ \* piece", text)
    compiled = lowgrad.compile(step)
    losses = [compiled(x, y).item() for _ in range(2)]
    printed = run(path, "--steps", "2")
    # The second step starts from what the first has updated.
    np.testing.assert_allclose([float(p) for p in printed], losses, rtol=1e-5)


@pytest.mark.parametrize("dtype", [lowgrad.bfloat16, lowgrad.float16])
def test_low_precision_is_computed_as_on_a_gpu(tmp_path, dtype):
    lowgrad.manual_seed(1)
    x, w = lowgrad.randn(24, 40).to(dtype), lowgrad.randn(40, 8).to(dtype)
    step = lowgrad.compile(lambda x, w: F.gelu(x @ w).float().sum(), device="interpret")
    path = step.lower(x, w).eject(tmp_path / "step.py")

    np.testing.assert_allclose(float(run(path)[0]), step(x, w).item(), rtol=1e-5)


def test_a_larger_result_is_described(tmp_path):
    x = lowgrad.randn(3, 5)
    step = lowgrad.compile(lambda x: (x * 2, x.sum()))
    path = step.lower(x).eject(tmp_path / "step.py")

    first, second = run(path)
    assert first.startswith("float32[3, 5]: mean ")
    np.testing.assert_allclose(float(second), x.sum().item(), rtol=1e-5)


def test_what_is_changed_in_the_file_is_what_runs(tmp_path):
    step = lowgrad.compile(lambda x: (x * 2.0).sum())
    x = lowgrad.ones(10)
    path = step.lower(x).eject(tmp_path / "step.py")
    assert run(path) == ["20"]

    changed(path, "* 2.0", "* 3.0")

    assert run(path) == ["30"]


def test_an_address_outside_is_caught(tmp_path):
    step = lowgrad.compile(lambda x: x * 2.0)
    path = step.lower(lowgrad.ones(10)).eject(tmp_path / "step.py")
    changed(path, "tl.store(out0_ptr + offs", "tl.store(out0_ptr + 4096 + offs")

    command = [sys.executable, str(path), "--interpret"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert re.search(r"IndexError: mul: \d+ lanes are outside of all memory", done.stderr)


def test_the_file_is_python_that_reads_well(tmp_path, large_head):
    step, x, y = large_head
    path = lowgrad.compile(step).lower(x, y).eject(tmp_path / "step.py", target="cuda:80")

    text = path.read_text()
    names = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert len(names) == len(set(names)), "nothing is defined twice"
    assert names.index("step") > names.index("matmul_add") if "matmul_add" in names else True
    assert max(map(len, text.splitlines())) <= 100
    assert "kernels for cuda:80" in text.splitlines()[0]
    assert "lowgrad" not in text.split("import os", 1)[1]


def test_without_arrays_it_runs_on_random_ones(tmp_path):
    step = lowgrad.compile(lambda x: (x * 0).sum())
    path = step.lower(lowgrad.TensorSpec((7, 3), lowgrad.float32)).eject(tmp_path / "step.py")
    path.with_suffix(".npz").unlink()

    assert run(path) in (["0"], ["-0"])


def test_random_numbers_are_those_of_the_step(tmp_path):
    lowgrad.manual_seed(5)
    step = lowgrad.compile(lambda x: F.dropout(x, 0.5).sum())
    x = lowgrad.ones(1000)
    path = step.lower(x).eject(tmp_path / "step.py")

    assert float(run(path)[0]) == step(x).item()


# --- Rolling calls into loops ---


def copies(*pairs, width=16):
    return [CopyCall(At(Base("result", 0), a), At(Base("input", 0), b), width) for a, b in pairs]


def unrolled(rolls):
    for roll in rolls:
        for time in range(roll.times):
            for call, (a, b) in zip(roll.calls, roll.strides, strict=True):
                yield (call.target.offset + a * time, call.source.offset + b * time)


def test_calls_that_go_on_evenly_are_a_loop():
    pairs = [(16 * i, 64 * i) for i in range(9)]

    found = list(rolled(copies(*pairs)))

    assert [(len(r.calls), r.times, r.strides) for r in found] == [(1, 9, ((16, 64),))]


def test_rolling_loses_nothing():
    generator = np.random.default_rng(0)
    for _ in range(50):
        base = [(int(a), int(b)) for a, b in generator.integers(0, 4, (3, 2)) * 16]
        times, steps = int(generator.integers(1, 6)), generator.integers(0, 3, (3, 2)) * 16
        pairs = [
            (a + int(s) * t, b + int(u) * t)
            for t in range(times)
            for (a, b), (s, u) in zip(base, steps, strict=True)
        ]
        pairs += [(7, 7), *base]

        assert list(unrolled(rolled(copies(*pairs)))) == pairs


def test_names_are_pythons_and_each_once():
    names = Names(["x"])

    made = [names.fresh(wish) for wish in ("x", "0.weight", "class", "1 - beta", "", "x")]

    assert made == ["x_2", "v_0_weight", "class_2", "v_1_beta", "value", "x_3"]


# Runs an ejected file on the mock driver, and prints what was launched on it.
ON_MOCK = """
import ctypes, runpy, sys
lib = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
lib.mock_log.restype = ctypes.c_char_p
lib.mock_configure.argtypes = [ctypes.c_int] * 4 + [ctypes.c_size_t] * 2
lib.mock_configure(0, 1, 90, 1, 1 << 33, 232448)
sys.modules["lowgrad"] = None
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(lib.mock_log().decode(errors="replace"))
"""


def test_on_a_gpu_the_kernels_are_launched_in_order(tmp_path, large_head):
    pytest.importorskip("cuda.bindings")
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("Triton's launcher needs a C compiler")
    mock = mock_gpu.library()._name
    step, x, y = large_head
    for_gpu = lowgrad.compile(step, device="cuda", target="cuda:90", memory="2MB")
    compiled = for_gpu.lower(x, y)
    path = compiled.eject(tmp_path / "step.py")

    folder = str(Path(mock).parent)
    done = subprocess.run(
        [sys.executable, "-c", ON_MOCK, mock, str(path)],
        env={**os.environ, "TRITON_LIBCUDA_PATH": folder, "LD_LIBRARY_PATH": folder},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    launched = re.findall(r"cuLaunchKernelEx (\w+) grid (\d+)", done.stdout)
    assert len(launched) == compiled.cost.launches
    kernels = [k for k, times in compiled.launches for _ in range(times)]
    assert sorted(int(grid) for _, grid in launched) == sorted(k.grid[0] for k in kernels)
