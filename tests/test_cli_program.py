"""The commands that take somebody's script: `lowgrad kernels train.py:step` and its like."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lowgrad.cli import main
from lowgrad.cli.output import plain_table
from lowgrad.cli.program import first_call
from lowgrad.errors import ArgumentError

SCRIPT = """\
import sys
import lowgrad
import lowgrad.nn as nn
import lowgrad.nn.functional as F
from beside import CLASSES

model = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, CLASSES))
optimizer = lowgrad.optim.SGD(model.parameters(), lr=0.1)


@lowgrad.compile
def norm(x):
    return (x * x).sum()


@lowgrad.compile
def step(x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


if __name__ == "__main__":
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    x = lowgrad.randn(rows, 24)
    norm(x)
    print("training")
    step(x, lowgrad.randint(0, CLASSES, (rows,)))
    open("reached", "w").close()
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("CLASSES = 7\n")
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return path


@pytest.mark.parametrize(
    "arguments", [["train.py", "--json", "--", "5"], ["--json", "train.py", "--", "5"]]
)
def test_what_follows_two_dashes_is_for_the_script(script, capsys, arguments):
    assert main(["kernels", *arguments]) == 0
    made = json.loads(capsys.readouterr().out)

    assert any(k["grid"] == [1] for k in made["kernels"])
    assert first_call("train.py:step", ["5"]).args[0].shape[0] == 5


def test_a_step_is_found_by_its_qualified_name(tmp_path):
    path = tmp_path / "method.py"
    path.write_text(
        "import lowgrad\n\n"
        "class Trainer:\n    @lowgrad.compile\n    def step(self, x):\n        return x * 2\n\n"
        "Trainer().step(lowgrad.ones(2))\n"
    )

    for name in ("step", "Trainer.step"):
        assert first_call(f"{path}:{name}").function.name == "step"


def test_the_first_call_is_caught_and_nothing_after_it_runs(script, capsys):
    call = first_call(f"{script}:step", ["40"])

    assert [tuple(a.shape) for a in call.args] == [(40, 24), (40,)]
    assert call.function.name == "step"
    assert not (script.parent / "reached").exists()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "training\n")


def test_without_a_name_it_is_any_compiled_function(script):
    assert first_call(str(script)).function.name == "norm"


def test_what_is_called_keeps_its_options(script):
    call = first_call(f"{script}:step")

    assert call.lower(fuse=False).cost.kernels > call.lower().cost.kernels
    assert call.with_options(memory=1 << 20).options.memory == 1 << 20


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("train.py:stop", 'function "stop"; did you mean "step"\\?'),
        ("train.py:other", 'called no compiled function "other"; those it called: norm, step'),
        ("trian.py", 'there is no file "trian.py"'),
        ("idle.py", "idle.py ended and called no compiled function"),
        ("leaves.py", "leaves.py ended with exit code 3"),
    ],
)
def test_what_cannot_be_found_is_said(script, program, message):
    (script.parent / "idle.py").write_text("x = 1\n")
    (script.parent / "leaves.py").write_text("raise SystemExit(3)\n")

    with pytest.raises(ArgumentError, match=message):
        first_call(program)


@pytest.mark.parametrize(
    ("text", "last", "lines"),
    [
        ("import lowgrad\n1 / 0\n", "ZeroDivisionError: division by zero", 4),
        ("import lowgrad\nx =\n", "SyntaxError: invalid syntax", 4),
        (
            "import lowgrad, json\n\n"
            "@lowgrad.compile\ndef step(x):\n    return x * int('one')\n\n"
            "step(lowgrad.ones(2))\n",
            "ValueError: invalid literal for int() with base 10: 'one'",
            4,
        ),
    ],
    ids=["when it runs", "before it runs", "in the step"],
)
def test_what_a_script_raises_is_shown_as_python_shows_it(tmp_path, capsys, text, last, lines):
    path = tmp_path / "wrong.py"
    path.write_text(text)

    assert main(["explain", str(path)]) == 2

    shown = [s for s in capsys.readouterr().err.splitlines() if set(s.strip()) - set("^~")]
    assert shown[-1] == last
    assert len(shown) <= lines, "no frames but the script's"


def test_an_error_of_lowgrad_itself_is_not_hidden(script, monkeypatch):
    def broken(*args, **kwargs):
        return {}["nothing"]

    monkeypatch.setattr("lowgrad.cli.program.Call.lower", broken)
    # It was planted here, so pretend that here is lowgrad.
    monkeypatch.setattr("lowgrad.cli.program.PACKAGE", str(Path(__file__).parent))

    with pytest.raises(KeyError):
        main(["explain", "train.py"])


def test_kernels_are_a_table(script, capsys):
    pytest.importorskip("triton")

    assert main(["kernels", "train.py:step", "--arch", "sm_80"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step: kernels on cuda:80"
    assert lines[1].split()[:4] == ["kernel", "line", "checked", "times"]
    assert all("train.py:" in line and "  yes  " in line for line in lines[2:-2])
    assert lines[-2].startswith(f"{len(lines) - 4} kernels, ")


def test_kernels_as_json(script, capsys):
    pytest.importorskip("triton")

    assert main(["kernels", "train.py:step", "--json", "--check", "none"]) == 0

    made = json.loads(capsys.readouterr().out)
    assert made["arch"] == "cuda:90"
    products = [k for k in made["kernels"] if "matmul" in k["name"]]
    assert len(products) >= 4
    for kernel in made["kernels"]:
        assert kernel["spill_bytes"] == 0
        assert 0 < kernel["registers"] <= 255
        assert kernel["seconds"] > 0
        assert kernel["checked"] == "no"


def test_a_wrong_kernel_is_found_by_the_table(script, capsys, monkeypatch):
    pytest.importorskip("triton")
    from lowgrad.codegen.triton import emit

    right = emit.literal
    monkeypatch.setattr(emit, "literal", lambda value: right(2.0 if value == 1.0 else value))

    assert main(["kernels", "train.py:step"]) == 1
    assert "no: differs" in capsys.readouterr().out


def test_bench_compares(script, capsys):
    assert main(["bench", "train.py:step", "--steps", "2"]) == 0

    header, *rows = capsys.readouterr().out.splitlines()[1:]
    assert header.split() == ["fused", "unfused", "ratio"]
    kernels = next(row.split() for row in rows if row.startswith("kernels"))
    assert int(kernels[1]) < int(kernels[2])


def test_explain_names_the_lines(script, capsys):
    assert main(["explain", "train.py:step"]) == 0

    text = capsys.readouterr().out
    assert text.startswith("made: ")
    assert "train.py:" in text


@pytest.mark.parametrize("name", ["pentium", "sm_20", "gfx"])
def test_a_wrong_architecture_ends_with_2(name, capsys):
    with pytest.raises(SystemExit) as error:
        main(["kernels", "train.py", "--arch", name])

    assert error.value.code == 2
    shown = capsys.readouterr().err
    assert f'"{name}" is no architecture; there are sm_70, ' in shown
    assert "gfx942" in shown


def test_a_plain_table_is_aligned():
    text = plain_table(("what", "n"), [("a", "1"), ("bcdef", "100")], title="t")

    assert text == "t\nwhat     n\na        1\nbcdef  100"


def test_eject_writes_a_file_that_runs(script, capsys):
    pytest.importorskip("triton")

    assert main(["eject", "train.py:step", "--out", "out.py"]) == 0

    assert "python out.py --interpret" in capsys.readouterr().out
    command = [sys.executable, "out.py", "--interpret"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("result = ")
