"""The GPU's benchmark without a GPU: each part, tiny, on the mock; failures, slices, text."""

import contextlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings")
pytest.importorskip("triton")
pytest.importorskip("torch")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is no part of the installed package

import mock_gpu  # noqa: E402

import lowgrad  # noqa: E402
from benchmarks import gpu  # noqa: E402
from benchmarks.figure import Figure  # noqa: E402
from benchmarks.gpu_parts import machine, report, runner, sanitizer, store  # noqa: E402
from benchmarks.gpu_parts.bench import Bench  # noqa: E402
from benchmarks.gpu_parts.clock import Clock  # noqa: E402
from benchmarks.gpu_parts.contest import Contest, contest  # noqa: E402
from benchmarks.gpu_parts.machine import Machine  # noqa: E402
from benchmarks.gpu_parts.parts import PARTS  # noqa: E402
from benchmarks.gpu_parts.rivals import TooLong, Torch, limited  # noqa: E402
from benchmarks.gpu_parts.row import Row, Side, from_json, to_json  # noqa: E402
from benchmarks.gpu_parts.runner import Outcome  # noqa: E402

PYTHON = [sys.executable, str(ROOT / "tests" / "mock_child.py")]
MACHINE = Machine("NVIDIA H200", {"driver": "580", "date": "2026-01-01"})
# PyTorch's compiler warns of its own.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def bench(monkeypatch):
    """A tiny bench on the mock, and the rows that it was given."""
    if mock_gpu.compiler() is None:
        pytest.skip("no C compiler for the mock driver")
    rows = []
    with mock_gpu.mocked(monkeypatch) as mock:
        monkeypatch.setattr(mock, "check", False)  # kernels are watched where they are tested
        clock = Clock(seconds=0, warmup_s=0, flush_mib=1, rounds=1)
        torch = Torch("cpu", "eager")
        made = Bench(
            rows.append, limit_s=200, is_tiny=True, torch=torch, clock=clock, python=PYTHON
        )
        made.rows = rows
        yield made
        assert not mock.errors, mock.errors[0]


# Parts --------------------------------------------------------------------------------------------

# Of parts that differ in sizes only, one. Ceilings have no sides, and a test below.
SAME = ("speed.head_wide", "speed.ceilings")
SPEED = [n for n in PARTS if n.startswith("speed.") and n not in SAME]
# The bounds of each part's figures, besides agreement; at tiny sizes they mean nothing.
TARGETS = {
    "speed.elementwise": {"share of the copy": 0.95},
    "speed.softmax": {"share of the copy": 0.92},
    "speed.norms": {"share of the copy": 0.92},
    "speed.cross_entropy": {"share of the copy": 0.92},
    "speed.matmul": {"share of cuBLAS": 0.88},
    "speed.linear_gelu": {"share of cuBLAS": 0.88, "with epilogue / without": 1.02},
    "speed.head": {
        "forward and backward": 46.0,
        "memory above inputs and gradients": 512.0,
        "time / cross entropy's": 1.1,
    },
    "speed.attention": {"forward": 450.0},  # the backward's share needs clocks that tell
    "speed.adamw": {"share of the copy": 0.9},
    "speed.small_steps": {},
    "speed.gpt2": {"tokens a second / torch.compile's": 1.1},  # memory is not counted on a CPU
}


@pytest.mark.parametrize("name", SPEED)
def test_a_part_times_every_side_and_agrees_with_pytorch(bench, name):
    PARTS[name].run(bench)

    assert bench.rows
    for row in bench.rows:
        if row.name.startswith("linear + cross entropy within"):
            continue  # without rivals
        assert not row.error, row
        assert {"lowgrad", "eager", "compile"} <= row.sides.keys()
        assert all(side.ms is not None and side.ms > 0 for side in row.sides.values()), row
        agreement = [f for f in row.figures if "against PyTorch eager" in f.name]
        assert len(agreement) == 1
        assert agreement[0].holds, row
        assert row.ratio is not None
        assert from_json(json.loads(json.dumps(to_json(row)))) == row
    bounded = [f for row in bench.rows for f in row.figures if f.bound is not None]
    found = {f.name: f.bound for f in bounded if "against PyTorch" not in f.name}
    assert found == TARGETS[name]


# Its own corpora, which fail as they should, are tested where they are.
CORRECT = [n for n in PARTS if n.startswith("correct.")]


@pytest.mark.parametrize("name", CORRECT)
def test_a_part_of_correctness_meets_its_targets(bench, name):
    PARTS[name].run(bench)

    assert bench.rows
    for row in bench.rows:
        assert row.verdict == "met" or row.note.startswith("skipped"), row


@pytest.mark.slow
def test_the_hosts_time_and_the_first_call_are_figures_with_targets(bench):
    PARTS["host.step"].run(bench)
    PARTS["host.first_call"].run(bench)

    assert [row.error for row in bench.rows] == [""] * len(bench.rows)
    bounds = {f.name: f.bound for row in bench.rows for f in row.figures if f.bound}
    assert bounds == {
        "host time of a call": 20.0,
        "first call, cold cache": 30.0,
        "first call, warm cache": 3.0,
    }


def test_ceilings_without_pytorch_are_told_as_the_models(bench):
    alone = Bench(bench.rows.append, limit_s=60, is_tiny=True, torch="no torch", clock=bench.clock)

    PARTS["speed.ceilings"].run(alone)
    PARTS["speed.matmul"].run(alone)

    assert all(not row.error for row in bench.rows)
    assert bench.rows[1].note == "no torch"
    assert bench.rows[2].sides.keys() == {"lowgrad"}


# What goes wrong ----------------------------------------------------------------------------------


def doubled(lib, x):
    """Wrong for lowgrad alone."""
    return x * (2.0 if lib.name == "lowgrad" else 1.0)


def test_a_wrong_result_misses_its_target(bench):
    x = bench.normal(8, 8)

    row = contest(bench, Contest("wrong", doubled, (x,), 1, "B"))

    assert row.verdict == "MISSED"
    assert row.figures[0].value == pytest.approx(1.0)


def test_nan_is_no_agreement(bench):
    x = bench.normal(8)

    row = contest(
        bench,
        Contest(
            "nan", lambda lib, x: x * (float("nan") if lib.name == "lowgrad" else 1), (x,), 1, "B"
        ),
    )

    assert row.verdict == "MISSED"
    written = json.dumps(to_json(row), allow_nan=False)
    assert from_json(json.loads(written)).figures[0].value == float("inf")


def test_a_rival_that_fails_is_left_out_and_says_why(bench):
    def call(lib, x):
        if lib.name == "torch":
            raise ValueError("not in this version")
        return x + 1

    row = contest(bench, Contest("half", call, (bench.normal(8),), 1, "B"))

    assert row.sides["lowgrad"].ms is not None
    assert row.sides["eager"] == Side(note="ValueError: not in this version")
    assert row.ratio is None


def test_a_row_that_fails_is_written_and_the_next_one_runs(bench):
    def fail():
        raise ValueError("broken\nsecond line")

    bench.row("one", fail)
    bench.row("two", lambda: Row("two"))

    assert bench.rows == [Row("one", error="ValueError: broken"), Row("two")]


def test_a_fault_of_the_gpu_ends_the_part_once_it_is_written(bench):
    def fail():
        raise lowgrad.DeviceFault("illegal address")

    with pytest.raises(lowgrad.DeviceFault):
        bench.row("one", fail)

    assert bench.rows[0].error.startswith("DeviceFault: illegal address")


def test_a_row_beyond_the_time_is_not_reached(bench):
    late = Bench(bench.rows.append, limit_s=0, is_tiny=True, torch="none", clock=bench.clock)

    late.row("one", lambda: Row("one"))

    assert bench.rows[0].error.startswith("not reached")


def test_a_mode_that_takes_too_long_falls_back_to_the_next():
    torch, tried = Torch("cpu", "eager"), []

    def call(made):
        tried.append(made)
        while len(tried) == 1:  # the first mode never ends by itself
            pass

    _, note = torch.compiled(lambda x: x, call, modes=("best", "default"), limit_s=0.2)

    assert note.startswith("best took over 0 s; default")


def test_a_limit_passes_what_catches_every_exception():
    def stubborn():
        while True:
            with contextlib.suppress(Exception):  # as autotuning does
                sum(range(10_000))

    with pytest.raises(TooLong), limited(0.05):
        stubborn()


@pytest.mark.parametrize(
    ("output", "verdict", "text"),
    [
        ("steps done\n========= ERROR SUMMARY: 0 errors", "met", ""),
        ("steps done\n========= ERROR SUMMARY: 2 errors", "MISSED", ""),
        ("steps done\n========= RACECHECK SUMMARY: 0 hazards displayed", "met", ""),
        ("========= ERROR SUMMARY: 0 errors", "failed", "exit code 1"),  # it never got there
        ("========= Error: Device not supported", "", "skipped: ========= Error: Device not"),
    ],
)
def test_what_the_sanitizer_says(output, verdict, text):
    row = sanitizer.row_of("memcheck", 1, output)

    assert row.verdict == verdict
    assert (row.error or row.note).startswith(text)


def test_a_broken_test_is_named(tmp_path):
    from benchmarks.gpu_parts.corpora import _row_of

    xml = '<testsuites><testsuite><testcase name="good"/><testcase name="bad"><failure/></testcase>'
    xml += '<testcase name="off"><skipped/></testcase></testsuite></testsuites>'
    (tmp_path / "r.xml").write_text(xml)

    row = _row_of("file", tmp_path / "r.xml")

    assert row.verdict == "MISSED"
    assert row.note == "bad"
    assert [f.value for f in row.figures] == [1, 1, 1]


# The command --------------------------------------------------------------------------------------


def test_without_a_gpu_the_reason_and_what_to_do(capsys):
    if not isinstance(machine.find(), str):
        pytest.skip("there is a GPU")

    assert gpu.main([]) == 2

    said = capsys.readouterr().out
    assert "NVIDIA" in said
    assert "pip install" in said


def test_list_names_each_part_with_its_minutes(capsys):
    assert gpu.main(["--list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(PARTS)
    assert all(0 < p.minutes <= 10 for p in PARTS.values()), "a slice is ten minutes"


@pytest.fixture
def broken(tmp_path):
    """A Python that runs parts on the mock, but for two, which die."""
    script = tmp_path / "python.py"
    script.write_text(
        "import json, os, runpy, sys, time\n"
        "if 'speed.softmax' in sys.argv or 'speed.norms' in sys.argv:\n"
        "    row = dict(name='first', sides={}, work=None, unit='', ceiling=None, figures=[],\n"
        "               note='', error='', ratio=None, fraction=None, verdict='')\n"
        "    at = sys.argv[sys.argv.index('benchmarks.gpu_parts.child') + 2]\n"
        "    open(at, 'w').write(json.dumps(row) + '\\n{\"name\": \"cut')\n"
        "    if 'speed.norms' in sys.argv:\n"
        "        time.sleep(60)\n"
        "    print('illegal address', file=sys.stderr, flush=True)\n"
        "    os.abort()\n"
        f"sys.argv = [{PYTHON[1]!r}, *sys.argv[1:]]\n"
        f"runpy.run_path({PYTHON[1]!r}, run_name='__main__')\n"
    )
    return [sys.executable, str(script)]


def test_a_part_that_dies_is_recorded_and_the_others_run(broken, tmp_path, capsys):
    out = tmp_path / "out"
    parts = ["speed.softmax", "speed.ceilings"]

    code = gpu.main(
        ["--tiny", "--out", str(out), "--limit", "60"]
        + [a for p in parts for a in ("--part", p)]
        + ["--python", *broken]
    )

    assert code == 1
    (path,) = out.glob("*/results.json")
    record = json.loads(path.read_text())
    assert record["device"] == "Mock GPU 0"
    died, done = (record["parts"][name] for name in parts)
    assert died["status"] == "failed"
    assert "SIGABRT" in died["error"]
    assert "illegal address" in died["error"]
    assert [row["name"] for row in died["rows"]] == ["first"]
    assert done["status"] == "done"
    assert len(done["rows"]) == 2
    assert done["environment"]["driver"]
    text = (path.parent / "results.md").read_text()
    assert "**failed**" in text
    assert "cuBLAS" in text


def test_a_part_that_hangs_is_stopped_and_keeps_its_rows(broken, tmp_path):
    outcome = runner.run("speed.norms", tmp_path / "rows.jsonl", 2, python=broken)

    assert outcome.status == "timeout"
    assert outcome.seconds < 20
    assert [row["name"] for row in outcome.rows] == ["first"]


# Slices -------------------------------------------------------------------------------------------


def outcome(part, status, **values):
    """An outcome with a row for each name and value."""
    rows = [
        to_json(Row(name, figures=(Figure("v", value, "x", 1.0),)))
        if value is not None
        else to_json(Row(name, error="not reached: late"))
        for name, value in values.items()
    ]
    return Outcome(part, status, 1.0, "" if status == "done" else "ended", rows, "2026-01-01")


def values(folder, part):
    """{row: value} of a part in the file."""
    rows = store.load(folder)["parts"][part]["rows"]
    return {row["name"]: row["figures"][0]["value"] if row["figures"] else None for row in rows}


def test_slices_come_together_in_the_tables_order(tmp_path):
    store.add(tmp_path, MACHINE, outcome("speed.matmul", "done", a=1))
    store.add(tmp_path, MACHINE, outcome("correct.ops", "done", b=2))

    assert list(store.load(tmp_path)["parts"]) == ["correct.ops", "speed.matmul"]


def test_a_part_that_is_done_replaces_an_older_one(tmp_path):
    store.add(tmp_path, MACHINE, outcome("speed.matmul", "done", a=1, gone=2))
    store.add(tmp_path, MACHINE, outcome("speed.matmul", "done", a=3))

    assert values(tmp_path, "speed.matmul") == {"a": 3}


def test_a_part_that_died_keeps_the_rows_it_did_not_get_to(tmp_path):
    older = Machine("NVIDIA H200", {"driver": "570"})
    store.add(tmp_path, older, outcome("speed.matmul", "done", a=1, b=2, c=3))
    store.add(tmp_path, MACHINE, outcome("speed.matmul", "timeout", a=4, c=None))

    assert values(tmp_path, "speed.matmul") == {"a": 4, "b": 2, "c": 3}
    part = store.load(tmp_path)["parts"]["speed.matmul"]
    assert part["status"] == "timeout"
    kept = {row["name"]: row.get("environment", {}).get("driver") for row in part["rows"]}
    assert kept == {"a": None, "b": "570", "c": "570"}


def test_what_a_run_left_behind_is_taken_over(tmp_path):
    scratch = tmp_path / "running"
    scratch.mkdir()
    line = json.dumps(outcome("speed.matmul", "done", a=1).rows[0])
    (scratch / "speed.matmul.jsonl").write_text(line + '\n{"name": "cu')

    store.recover(tmp_path, MACHINE, scratch)

    assert values(tmp_path, "speed.matmul") == {"a": 1}
    assert store.load(tmp_path)["parts"]["speed.matmul"]["status"] == "timeout"


def test_folders_of_other_runs_are_merged(tmp_path, capsys):
    for number, part in enumerate(["speed.softmax", "speed.attention"]):
        folder = tmp_path / f"slice{number}" / "nvidia-h200"
        store.add(folder, MACHINE, outcome(part, "done", a=number))

    assert gpu.main(["--merge", str(tmp_path), "--out", str(tmp_path / "all")]) == 0

    merged = store.load(tmp_path / "all" / "nvidia-h200")
    assert list(merged["parts"]) == ["speed.softmax", "speed.attention"]
    assert (tmp_path / "all" / "nvidia-h200" / "results.md").exists()


# Text and pictures --------------------------------------------------------------------------------


def measured():
    """A record with rows of every kind that is drawn."""

    def timed(name, work=1e9, unit="B", ceiling=4e12, **ms):
        sides = {k: Side(v, 1 << 20) for k, v in ms.items()}
        return Row(name, sides, work, unit, ceiling, (Figure("share", 0.9, "", 0.95, True),))

    rows = {
        "speed.elementwise": [timed("GELU", lowgrad=0.3, eager=0.3, compile=0.4)],
        "speed.softmax": [timed(f"softmax, 8 x {n}", lowgrad=0.3, eager=0.6) for n in (1024, 2048)],
        "speed.matmul": [timed("matmul, 8 x 8 x 8", unit="FLOP", lowgrad=0.3, eager=0.2)],
        "speed.attention": [
            timed("attention forward, 1 x 2 x 1024 x 128", unit="FLOP", lowgrad=1.0, eager=2.0)
        ],
        "speed.gpt2": [timed("GPT-2", lowgrad=100.0, compile=150.0)],
        "correct.bits": [Row("bits", error="a | b\nc")],
        "correct.sanitizer": [Row("memcheck", note="skipped: not installed")],
    }
    environment = {"driver": "580", "torch": "2.11"}
    parts = {
        name: {
            "status": "done",
            "error": "",
            "environment": environment,
            "rows": [to_json(row) for row in found],
        }
        for name, found in rows.items()
    }
    return {"device": "NVIDIA H200", "parts": parts}


def test_the_text_has_a_table_of_even_rows_for_each_part():
    text = report.report(measured())

    assert "Rows with targets: 0 met, 6 missed. Rows that failed: 1." in text
    assert "| GELU | 300 us, 1 MiB |" not in text
    assert "1.33x (compile)" not in text, "eager is faster there"
    assert "1.00x (eager)" in text
    assert "83.3% (3.33 TB/s)" in text
    assert "skipped" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    width = 0
    for line in tables:
        columns = line.replace("\\|", "").count("|")
        if line.startswith("|  |") or not width:
            width = columns
        assert columns == width, line


def test_pictures_are_drawn_of_what_was_measured(tmp_path):
    from benchmarks.gpu_parts.plots import draw

    drawn = draw(measured(), tmp_path)

    names = {"elementwise", "products", "rows", "attention", "steps"}
    assert {path.stem for path in drawn} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert draw({"device": "", "parts": {}}, tmp_path) == []


def test_the_results_page_says_what_is_there_and_what_remains():
    text = (gpu.RESULTS / "README.md").read_text()

    written = text[text.index(report.BEGIN) : text.index(report.END)]
    assert written == report.overview(gpu.RESULTS).partition(report.END)[0]
    if not list(gpu.RESULTS.glob("gpu/*/results.json")):
        assert "No GPU figures exist yet" in written
        assert all(f"`{name}`" in written for name in PARTS)


def test_the_results_page_follows_the_results(tmp_path):
    page = f"# Results\n\nbefore\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"
    (tmp_path / "README.md").write_text(page)
    store.add(tmp_path / "gpu" / "nvidia-h200", MACHINE, outcome("correct.ops", "done", a=1))

    report.update_readme(tmp_path)

    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# Results\n\nbefore\n")
    assert text.endswith("after\n")
    assert "[NVIDIA H200](gpu/nvidia-h200/results.md)" in text
    assert "- `correct.ops`" not in text
    assert "- `speed.gpt2`" in text


def test_long_rows_have_a_target_of_their_own():
    from benchmarks.gpu_parts.rows import ROWS, _share_of

    assert [_share_of(width) for width in ROWS] == [0.92] * 6 + [0.65] * 2


def test_the_backwards_rate_is_that_of_the_difference(bench, monkeypatch):
    from benchmarks.gpu_parts import attention

    times = iter([1.0, 3.0])  # forward; forward and backward
    monkeypatch.setattr(
        attention, "contest", lambda *_, **__: Row("a", {"lowgrad": Side(next(times))}, 1e9, "FLOP")
    )
    attention.attention(bench)

    # 2.5 times the work in 2 ms instead of 1.
    figure = next(f for f in bench.rows[1].figures if f.name == "backward's rate / forward's")
    assert figure.value == pytest.approx(1.25)
    assert (figure.bound, figure.at_least) == (0.6, True)


def test_less_memory_at_more_tokens_is_the_target(bench):
    from benchmarks.gpu_parts.steps import Found, _gpt2_figures

    sides = {"lowgrad": Found(100.0, 60), "compile": Found(120.0, 100)}

    figures = {f.name: f for f in _gpt2_figures(sides, tokens=65536)}

    assert figures["tokens a second / torch.compile's"].value == pytest.approx(1.2)
    assert figures["tokens a second / torch.compile's"].holds
    assert figures["memory / torch.compile's"].value == pytest.approx(0.6)
    assert figures["memory / torch.compile's"].bound == 0.7
    assert figures["lowgrad: tokens"].value == pytest.approx(655360)


def test_a_batch_that_does_not_fit_everyone_gives_way_to_a_smaller_one(bench, monkeypatch):
    from benchmarks.gpu_parts import steps

    tried = []

    def theirs(bench, build):
        batch = tried[-1]
        return steps.Found(note="OutOfMemoryError: CUDA out of memory" if batch > 16 else "ran")

    monkeypatch.setattr(bench, "is_tiny", False)
    monkeypatch.setattr(type(bench), "product_rate", 1e12)
    monkeypatch.setattr(steps, "_ours", lambda *_: steps.Found(10.0, 1, losses=[1.0]))
    monkeypatch.setattr(steps, "_theirs", theirs)
    monkeypatch.setattr(
        steps, "gpt2_size", lambda is_tiny, batch: tried.append(batch) or _size(batch)
    )
    steps.gpt2(bench)

    assert tried == [64, 32, 16]
    assert bench.rows[0].name == "GPT-2 124M, batch 16 x 1024"


def _size(batch):
    from dataclasses import replace

    from benchmarks.transformers import GPT2

    return replace(GPT2, batch=batch)
