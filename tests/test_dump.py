"""A dump is the step in files: IR that parses back, the plan, the kernels."""

from __future__ import annotations

import json

import pytest
from models import MODELS

import lowgrad
from lowgrad import config
from lowgrad.dump import dump
from lowgrad.errors import ArgumentError, CompileError
from lowgrad.ir.text import parse


@pytest.fixture
def compiled():
    step, batch = MODELS["classifier"]()
    return lowgrad.compile(step).lower(*batch)


def test_every_graph_of_a_dump_parses_back(compiled, tmp_path):
    dump(compiled, tmp_path)

    files = sorted(tmp_path.glob("*.ir"))
    assert files[0].name == "00-trace.ir"
    assert files[-1].name.endswith(("fuse.ir", "order.ir"))
    for file in files:
        head, _, text = file.read_text().partition("graph ")
        assert all(line.startswith("# ") for line in head.splitlines())
        assert f"{parse(file.read_text())}\n" == f"graph {text}"
        assert head.startswith(f"# {file.stem.partition('-')[2]}: ")


def test_a_dump_has_the_plan_and_the_kernels(compiled, tmp_path):
    dump(compiled, tmp_path)

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["peak_bytes"] == compiled.plan.peak_bytes
    assert str(compiled.plan.peak_bytes) in (tmp_path / "memory.txt").read_text()
    assert (
        len(list((tmp_path / "kernels").iterdir())) == summary["kernels"] == compiled.cost.kernels
    )


def test_a_dump_replaces_an_older_one(compiled, tmp_path):
    (tmp_path / "kernels").mkdir()
    older = ("07-of_another.ir", "kernels/77_of_another.py", "inputs.npz")
    for name in (*older, "notes.txt"):
        (tmp_path / name).write_text("mine")

    dump(compiled, tmp_path)

    assert not any(
        (tmp_path / name).exists() and (tmp_path / name).read_bytes() == b"mine" for name in older
    )
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said(compiled, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ArgumentError, match="a dump cannot be written into"):
        dump(compiled, tmp_path / "file")


def test_the_setting_dumps_each_recording(tmp_path):
    double = lowgrad.compile(lambda x: x * 2)

    with config.changed(dump_dir=tmp_path):
        double(lowgrad.ones(2))
        double(lowgrad.ones(2))
        double(lowgrad.ones(3))

    assert len(list(tmp_path.iterdir())) == 2


def test_the_launches_name_the_line_and_whose_buffers(compiled, tmp_path):
    dump(compiled, tmp_path)

    text = (tmp_path / "launches.txt").read_text()

    blocks = [line for line in text.splitlines() if not line.startswith(" ")]
    assert len(blocks) == len(compiled.launches)
    assert all("models.py:" in block for block in blocks)
    weights = {v.hint for v in compiled.graph.inputs if v.hint.endswith("weight")}
    assert len(weights) == 3
    assert all(f" {hint}\n" in text for hint in weights)


def test_a_step_that_a_pass_fails_on_leaves_a_graph_that_shows_it(tmp_path, monkeypatch, capsys):
    from lowgrad.cli import main
    from lowgrad.passes.pipeline import SIMPLIFY

    step = next(s for s in SIMPLIFY if s.name == "fold")
    right = step.run

    def wrong(graph):
        raise KeyError("broken")

    object.__setattr__(step, "run", wrong)
    try:
        with pytest.raises(CompileError, match=r"(?s)pass fold failed.*for lowgrad dump"):
            lowgrad.compile(lambda x: x * 2 + 1, dump=tmp_path)(lowgrad.ones(3))
        (left,) = tmp_path.glob("*-failed/*.ir")
        assert main(["dump", "passes", str(left), "--to", "fold"]) == 2
        assert "pass fold failed on" in capsys.readouterr().err
    finally:
        object.__setattr__(step, "run", right)
    assert main(["dump", "passes", str(left), "--to", "fold"]) == 0
