"""Kernels compile for GPUs that are not there, and their cost is read from the machine code."""

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from lowgrad.errors import ArgumentError, CompileError

pytest.importorskip("triton", reason="the compiler is Triton's")

from lowgrad.codegen.triton.compile import (
    Job,
    _first_useful_line,
    compile_job,
    cross_compile,
)
from lowgrad.codegen.triton.interpret import interpret
from lowgrad.codegen.triton.load import load

pytestmark = pytest.mark.triton

TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")

HEADER = """\
import triton
import triton.language as tl


@triton.jit
"""
ADD = (
    HEADER
    + """\
def add(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    y = tl.load(y_ptr + i)
    tl.store(out_ptr + i, 3.0 * x + y)
"""
)
ADD_JOB = Job(
    ADD,
    "add",
    {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32"},
    {"BLOCK": 1024},
    ("x_ptr", "y_ptr", "out_ptr"),
    "cuda:90",
)
SPILLS = (
    HEADER
    + """\
def spills(x_ptr, out_ptr):
    i = tl.arange(0, 64)
    j = tl.arange(0, 64)
    x = tl.load(x_ptr + i[:, None] * 64 + j[None, :])
    total = tl.sum(tl.exp(x) * tl.trans(x), axis=0)
    y = x * total[None, :]
    tl.store(out_ptr + i[:, None] * 64 + j[None, :], tl.exp(y) + tl.trans(y) + x)
"""
)


@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_compiles_for(target):
    binary = compile_job(replace(ADD_JOB, target=target))

    assert binary.binary[:4] == b"\x7fELF"
    assert 4 <= binary.registers <= 64
    assert binary.spill_bytes == 0
    assert binary.shared_bytes == 0
    assert binary.occupancy == 1.0
    assert (binary.ptx is not None) == (binary.cubin is not None) == target.startswith("cuda:")


def test_machine_code_shows_wide_accesses_if_pointers_are_divisible():
    aligned, unknown = map(compile_job, [ADD_JOB, replace(ADD_JOB, divisible=())])

    assert re.search(r"LDG\S*\.128", aligned.sass)
    assert not re.search(r"LDG\S*\.128", unknown.sass)


def test_contraction_happens_only_if_asked_for():
    apart, fused = map(compile_job, [ADD_JOB, replace(ADD_JOB, enable_fp_fusion=True)])

    assert "FFMA" not in apart.sass
    assert "FFMA" in fused.sass


def test_spills_are_counted():
    pointers = {"x_ptr": "*fp32", "out_ptr": "*fp32"}

    binary = cross_compile(SPILLS, "spills", pointers, {}, (), "cuda:90", num_warps=1)

    assert binary.spill_bytes > 0
    assert binary.sass.count("STL") > 0
    assert binary.shared_bytes > 0
    assert 0 < binary.occupancy < 0.5


def test_compiling_twice_and_elsewhere_gives_the_same_bytes(tmp_path):
    program = f"""
        import hashlib
        from lowgrad.codegen.triton.compile import Job, compile_job
        made = compile_job({ADD_JOB!r})
        print(hashlib.sha256(made.asm.encode() + made.binary).hexdigest())
    """
    hashes = set()
    for folder in ("a", "b"):
        environment = {**os.environ, "LOWGRAD_CACHE": str(tmp_path / folder)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        hashes.add(done.stdout)

    assert len(hashes) == 1


def test_an_error_of_the_front_end_names_kernel_target_and_reason():
    source = HEADER + "def faulty(x_ptr):\n    tl.store(x_ptr, missing)\n"

    with pytest.raises(CompileError, match=r"faulty: does not compile for cuda:90: .*missing"):
        cross_compile(source, "faulty", {"x_ptr": "*fp32"}, {}, (), "cuda:90")


FP8 = (
    HEADER
    + """\
def fp8(x_ptr, out_ptr):
    i = tl.arange(0, 128)
    tl.store(out_ptr + i, tl.load(x_ptr + i).to(tl.float8e4nv))
"""
)


def test_an_error_of_the_target_is_quiet_and_named(capfd):
    with pytest.raises(CompileError, match=r"fp8: does not compile for cuda:80: .*fp8e4nv"):
        cross_compile(FP8, "fp8", {"x_ptr": "*fp32", "out_ptr": "*fp8e4nv"}, {}, (), "cuda:80")

    assert capfd.readouterr().err == ""


def test_what_a_failed_pass_prints_is_preferred():
    noise = "#loc = loc(unknown)\nk.py:3:1: error: tile is too large\nmodule {\n}"

    assert _first_useful_line("PassManager::run failed", noise) == "error: tile is too large"
    assert _first_useful_line("at 1:2\n  ^\nmissing is not defined\n", "") == (
        "missing is not defined"
    )


def test_stderr_of_others_passes_through(capfd, monkeypatch):
    from lowgrad.codegen.triton import compile as module

    def noisy(*args):
        os.write(2, b"from another thread\n")
        return compiles(*args)

    compiles = module._compile
    monkeypatch.setattr(module, "_compile", noisy)
    compile_job(ADD_JOB)

    assert capfd.readouterr().err == "from another thread\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "tpu:5"}, 'there is no target "tpu:5"; there are cuda:70'),
        ({"divisible": ("z_ptr",)}, r"divisible names \['z_ptr'\]"),
        ({"constants": {}}, "the kernel takes"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ArgumentError, match=message):
        compile_job(replace(ADD_JOB, **changes))


def test_compiling_and_interpreting_do_not_disturb_each_other():
    x, out = np.ones(1024, np.float32), np.zeros(1024, np.float32)

    before = compile_job(ADD_JOB)
    interpret(load(ADD, "add"), (1,), [x, x, out], {"BLOCK": 1024})
    after = compile_job(ADD_JOB)

    assert (out == 4).all()
    assert before.binary == after.binary
