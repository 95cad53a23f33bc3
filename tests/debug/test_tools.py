"""`lowgrad dump`: run, diff, check, passes, as a person types them."""

from __future__ import annotations

import re

import models
import numpy as np
import pytest

import lowgrad
from lowgrad.cli import main
from lowgrad.debug.diff import difference
from lowgrad.debug.inputs import made_up, save, saved
from lowgrad.dump import dump
from lowgrad.errors import ArgumentError
from lowgrad.ir.interpret import interpret
from lowgrad.ir.text import parse
from lowgrad.runtime.cpu import functions

ONE = """\
graph step(%x: f32[3,4], %w: f32[3,4]) {
  %0 = mul %x, %w : f32[3,4]
  %1 = exp %0 : f32[3,4]
  %2 = sum %1 {dims=(0, 1)} : f32[1,1]
  return %2
}
"""


@pytest.fixture
def folder(tmp_path):
    lowgrad.manual_seed(1)
    step, batch = models.MODELS["classifier"]()
    return dump(lowgrad.compile(step).lower(*batch), tmp_path / "dump")


def test_run_prints_the_outputs(folder, capsys):
    stage = next(folder.glob("*-fuse.ir"))

    assert main(["dump", "run", str(stage), "--inputs", str(folder / "inputs.npz")]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["output", "type", "mean", "least", "most", "not", "finite"]
    assert lines[2].split()[1] == "f32[]"
    assert all(line.endswith(" 0") for line in lines[2:])


def test_run_saves_what_it_computed(tmp_path, capsys):
    (tmp_path / "a.ir").write_text(ONE)
    main(["dump", "run", str(tmp_path / "a.ir"), "--seed", "3", "--out", str(tmp_path / "o.npz")])

    graph = parse(ONE)
    expected = interpret(graph, *made_up(graph, 3))
    with np.load(tmp_path / "o.npz") as made:
        np.testing.assert_array_equal(made["arr_0"], expected[0])


@pytest.mark.parametrize(
    ("change", "code", "expected"),
    [
        (lambda t: t.replace("%1 = exp %0", "%e = exp %0").replace("%1 {", "%e {"), 0, "the same"),
        (lambda t: t.replace("exp %0", "log %0"), 1, "- %1 = exp %0 : f32[3,4]"),
        (lambda t: t.replace("mul %x, %w", "mul %w, %x"), 1, "+ %0 = mul %w, %x : f32[3,4]"),
        (lambda t: t.replace("dims=(0, 1)} : f32[1,1]", "dims=(0,)} : f32[1,4]"), 1, "1 removed"),
        (lambda t: t.replace("%x: f32[3,4], ", "%x: f32[3,4], %y: f32[2], "), 1, "+ input y"),
    ],
    ids=["names", "op", "operands", "attribute", "inputs"],
)
def test_diff_is_by_meaning(change, code, expected, tmp_path, capsys):
    paths = [tmp_path / "a.ir", tmp_path / "b.ir"]
    paths[0].write_text(ONE)
    paths[1].write_text(change(ONE))

    assert main(["dump", "diff", *map(str, paths)]) == code
    assert expected in capsys.readouterr().out


def test_what_only_carries_a_difference_on_is_counted():
    found = difference(parse(ONE), parse(ONE.replace("mul %x, %w", "add %x, %w")))

    assert found.removed == ("%0 = mul %x, %w : f32[3,4]",)
    assert found.carried == 4
    assert found.outputs == (0,)


def test_what_is_made_twice_is_counted():
    twice = ONE.replace("  %2 = sum %1", "  %9 = exp %0 : f32[3,4]\n  %2 = sum %9")

    found = difference(parse(ONE), parse(twice))

    assert (found.removed, found.added, found.again) == ((), (), 1)
    assert not found.outputs


def test_nodes_in_another_order_are_the_same():
    text = ONE.replace("  %1 = exp", "  %5 = neg %x : f32[3,4]\n  %1 = exp")
    moved = ONE.replace("  %2 = sum", "  %5 = neg %x : f32[3,4]\n  %2 = sum")

    assert difference(parse(text), parse(moved)).is_empty


def test_check_says_that_all_is_well(folder, capsys):
    assert main(["dump", "check", str(folder)]) == 0

    assert "all give the same outputs" in capsys.readouterr().out


def test_check_looks_at_kernels_if_asked(folder, capsys):
    pytest.importorskip("triton")

    assert main(["dump", "check", str(folder), "--kernels"]) == 0
    assert "every kernel equals the reference" in capsys.readouterr().out


def test_check_finds_an_edited_stage(folder, capsys):
    stage = next(folder.glob("*-fuse.ir"))
    text = stage.read_text()
    assert " exp " in text
    stage.write_text(text.replace(" exp ", " expm1 "))

    assert main(["dump", "check", str(folder)]) == 1
    assert "the outputs differ after fuse" in capsys.readouterr().out


def test_passes_replays_from_a_stage(folder, tmp_path, capsys):
    stage = next(folder.glob("*-cse.ir"))

    assert main(["dump", "passes", str(stage), "--from", "fuse", "--out", str(tmp_path / "o")]) == 0

    made = parse(next((tmp_path / "o").glob("*-fuse.ir")).read_text())
    known = parse(next(folder.glob("*-fuse.ir")).read_text())
    assert difference(made, known).is_empty
    assert capsys.readouterr().err.splitlines()[1].startswith("fuse ")


def test_without_from_the_pipeline_goes_on_after_the_stage(folder, capsys):
    stage = next(folder.glob("*-simplify.ir"))
    main(["dump", "passes", str(stage), "--to", "cse"])

    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["views", "cuts", "factors", "cats", "cse"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], '"nowhere" holds no dump'),
        (["run", "nowhere.ir"], '"nowhere.ir" cannot be read: No such file'),
        (["passes", "a.ir", "--from", "fuze"], 'there is no pass "fuze"; did you mean "fuse"?'),
    ],
)
def test_what_cannot_be_done_is_said(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.ir").write_text(ONE)
    monkeypatch.chdir(tmp_path)

    assert main(["dump", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_any_bytes_is_an_error_with_a_place(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ir").write_bytes(b"graph step(%x: f32[3]) {\n  \xff\xfe\x00\n}")

    assert main(["dump", "run", "a.ir"]) == 2
    assert "a.ir:2:3: unexpected character" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04 and no more"])
def test_inputs_that_are_no_npz_are_an_error(tmp_path, capsys, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ir").write_text(ONE)
    if content is not None:
        (tmp_path / "i.npz").write_bytes(content)

    assert main(["dump", "run", "a.ir", "--inputs", "i.npz"]) == 2
    assert '"i.npz" cannot be read as an .npz: ' in capsys.readouterr().err


def test_run_can_check_what_is_generated(tmp_path, capsys, monkeypatch):
    pytest.importorskip("triton")
    (tmp_path / "a.ir").write_text("graph g(%x: f32[3]) {\n  %0 = exp %x : f32[3]\n  return %0\n}")
    command = ["dump", "run", str(tmp_path / "a.ir"), "--check"]
    assert main(command) == 0
    assert "on a CPU: the same\nas kernels: the same\n" in capsys.readouterr().out

    monkeypatch.setattr(functions, "UFUNCS", {**functions.UFUNCS, "exp": "exp2"})
    assert main(command) == 1
    out = capsys.readouterr().out
    assert re.search(r"on a CPU: output 0 by 0\.\d+ of its largest element, at \[\d\] it is", out)
    assert "as kernels: the same" in out


def test_passes_in_the_wrong_order_are_refused(tmp_path, capsys):
    (tmp_path / "a.ir").write_text(ONE)

    assert main(["dump", "passes", str(tmp_path / "a.ir"), "--from", "cse", "--to", "fold"]) == 2
    assert 'the pass "fold" comes before "cse"' in capsys.readouterr().err


def test_comments_are_no_part_of_a_graph():
    text = "# head\n" + ONE.replace("return", "# return %0\n  return")

    assert str(parse(text)) == ONE.rstrip("\n")


def test_inputs_keep_their_bits(tmp_path):
    graph = parse("graph g(%x: bf16[5], %i: i64[3]) {\n  return %x, %i\n}")
    arrays = made_up(graph, 4)
    save(tmp_path / "i.npz", arrays)

    for one, other in zip(saved(graph, tmp_path / "i.npz"), arrays, strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


def test_inputs_of_another_graph_are_refused(tmp_path):
    save(tmp_path / "i.npz", [np.zeros(3, np.float32)])
    with pytest.raises(ArgumentError, match=r"i.npz has 1 arrays, step has 2 inputs"):
        saved(parse(ONE), tmp_path / "i.npz")
    save(tmp_path / "i.npz", [np.zeros(3, np.float32)] * 2)
    with pytest.raises(ArgumentError, match=r"arr_0 is float32\[3\], the input x is f32\[3,4\]"):
        saved(parse(ONE), tmp_path / "i.npz")


def test_the_folder_can_be_an_argument(tmp_path):
    step = lowgrad.compile(lambda x: x * 2, dump=tmp_path)
    step(lowgrad.ones(3))

    assert [p.name for p in tmp_path.iterdir()] == ["_lambda_-1"] or list(tmp_path.iterdir())


def test_lines_are_written_if_asked(tmp_path):
    step, batch = models.MODELS["classifier"]()
    folder = dump(lowgrad.compile(step).lower(*batch), tmp_path, lines=True)

    text = (folder / "00-trace.ir").read_text()
    assert "@ tests/models.py:" in text
    assert parse(text).nodes[0].loc is not None
