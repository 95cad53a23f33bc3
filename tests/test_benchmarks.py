"""The figures' command: every section runs, all is written down, a missed bound is told."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the installed package

from benchmarks import run  # noqa: E402
from benchmarks.executed import assert_same_losses  # noqa: E402
from benchmarks.figure import Figure, Section  # noqa: E402


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a quick run of everything wrote."""
    folder = tmp_path_factory.mktemp("figures")
    assert run.main(["--quick", "--out", str(folder)]) == 0
    return folder


def figures(folder, section):
    """The figures of one section, {name: value}."""
    record = json.loads((folder / "figures.json").read_text())
    return {k: f["value"] for k, f in record["sections"][section]["figures"].items()}


def test_machine_and_versions_are_written_down(written):
    record = json.loads((written / "figures.json").read_text())

    assert {"processor", "python", "lowgrad", "numpy", "torch"} <= record["environment"].keys()
    assert record["sections"].keys() == run.SECTIONS.keys()


@pytest.mark.parametrize("name", ["gpt2", "fusion"])
def test_pictures_are_drawn(written, name):
    assert (written / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_fusing_leaves_fewer_kernels_and_bytes(written):
    found = figures(written, "fusion")
    ratios = {k: v for k, v in found.items() if k.endswith(("fused kernels", "fused bytes moved"))}

    assert len(ratios) == 6
    assert all(ratio > 1.5 for ratio in ratios.values()), ratios


def test_a_planned_step_keeps_its_lower_bound(written):
    found = figures(written, "gpt2")

    for optimizer in ("SGD", "AdamW"):
        assert 1.0 <= found[f"{optimizer}: arena / lower bound"] <= 1.1
        assert found[f"{optimizer}: distinct kernels"] <= found[f"{optimizer}: kernels"]
    assert found["AdamW: parameters and moments"] > 2.9 * found["SGD: parameters and moments"]


def test_a_budget_is_obeyed_or_refused_with_what_it_would_take(written):
    found = figures(written, "budgets")

    for share in ("80%", "60%", "50%"):
        name = f"{share} of the default"
        if f"{name}: peak / budget" in found:
            assert found[f"{name}: peak / budget"] <= 1.0
        else:
            assert found[f"{name}: refused, least peak / budget"] > 1.0


def test_a_step_takes_memory_of_its_own(written):
    found = figures(written, "executed")

    # The weight, 8192 x 256 in float32, at the least.
    assert found["LM head: peak memory, compiled step"] >= 8
    assert found["LM head: peak memory, PyTorch eager step"] >= 8


@pytest.mark.parametrize(
    ("figure", "code"),
    [
        (Figure("kept", 1.0, "x", 1.0), 0),
        (Figure("a ratio", 1.1, "x", 1.0), 1),
        (Figure("too few", 1.9, "x", 2.0, at_least=True), 1),
        (Figure("bytes", 3.0, "B", 2.0), 1),
        (Figure("a slow machine", 9.0, "s", 1.0), 0),
    ],
)
def test_a_missed_bound_fails_the_run_unless_it_is_seconds(figure, code, monkeypatch, capsys):
    monkeypatch.setattr(run, "SECTIONS", {"one": lambda quick: Section("One", [figure])})

    assert run.main(["--only", "one"]) == code
    assert ("missed" in capsys.readouterr().out) == (not figure.holds)


def test_programs_that_train_differently_are_not_compared():
    with pytest.raises(AssertionError, match="the losses differ"):
        assert_same_losses("net", [1.0, 0.9], [1.0, 0.95])
