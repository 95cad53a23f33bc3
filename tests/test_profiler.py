"""`lowgrad.profiler`: traces that Perfetto opens, of recording, compiling and each call."""

import json

import pytest

import lowgrad
from lowgrad import spans
from lowgrad.errors import ArgumentError
from lowgrad.profiler import ProfilerActivity, profile, record_function


def step(x):
    return (x @ x).exp().sum()


@pytest.fixture
def trace(tmp_path):
    compiled = lowgrad.compile(step)
    with profile() as prof:
        for _ in range(3):
            with record_function("iteration"):
                compiled(lowgrad.ones(8, 8))
    prof.export_chrome_trace(tmp_path / "trace.json")
    return json.loads((tmp_path / "trace.json").read_text())["traceEvents"], prof


def test_a_trace_has_what_happened(trace):
    events, _ = trace

    kinds = [event["cat"] for event in events]
    assert kinds.count("step") == kinds.count("user") == 3
    assert kinds.count("record") == kinds.count("compile") == kinds.count("build") == 1
    passes = {event["name"] for event in events if event["cat"] == "pass"}
    assert {"dce", "simplify", "cse", "fuse", "order"} <= passes


def test_events_are_chromes_complete_ones_and_nest(trace):
    events, _ = trace

    for event in events:
        assert event["ph"] == "X"
        assert event["dur"] >= 0 <= event["ts"]
        assert {"name", "cat", "pid", "tid", "args"} <= event.keys()
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    first = next(e for e in events if e["cat"] == "step")
    compiling = next(e for e in events if e["cat"] == "compile")
    assert first["ts"] <= compiling["ts"]
    assert compiling["ts"] + compiling["dur"] <= first["ts"] + first["dur"]


def test_a_profile_is_started_and_stopped_as_in_pytorch():
    seen = []
    prof = profile(
        activities=[ProfilerActivity.CPU], record_shapes=True, on_trace_ready=seen.append
    )
    prof.start()
    lowgrad.compile(step)(lowgrad.ones(4, 4))
    prof.step()
    prof.stop()

    assert seen == [prof]
    assert any(event["cat"] == "step" for event in prof.events())


def test_a_table_is_sorted_by_what_is_asked(trace):
    _, prof = trace
    averages = prof.key_averages()

    by_count = averages.table(sort_by="count").splitlines()[1:]
    assert [int(line.split()[-3]) for line in by_count] == sorted(a.count for a in averages)[::-1]
    assert averages.table(sort_by="self_cpu_time_total") == averages.table()
    with pytest.raises(ArgumentError, match="it is one of total, median, count"):
        averages.table(sort_by="bytes")


def test_averages_are_a_table(trace):
    _, prof = trace

    averages = prof.key_averages()
    by_name = {(a.key, a.kind): a for a in averages}
    assert by_name["step", "step"].count == 3
    assert [a.total_us for a in averages] == sorted((a.total_us for a in averages), reverse=True)
    lines = averages.table(row_limit=2).splitlines()
    assert lines[0].split() == ["name", "kind", "calls", "total", "ms", "median", "ms"]
    assert len(lines) == 3


def test_profiles_may_nest():
    compiled = lowgrad.compile(step)
    with profile() as outer:
        compiled(lowgrad.ones(2, 2))
        with profile() as inner:
            compiled(lowgrad.ones(2, 2))

    counts = [[e["cat"] for e in p.events()].count("step") for p in (outer, inner)]
    assert counts == [2, 1]
    assert not spans.collectors


def test_without_a_profile_nothing_is_collected():
    assert spans.span("step", "x") is spans.span("pass", "y")


def test_a_profile_that_is_not_over_has_no_results():
    with profile() as prof, pytest.raises(ArgumentError, match="it is not over"):
        prof.events()


def test_compiling_kernels_is_seen(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from lowgrad import config

    with config.changed(cache_root=tmp_path / "cache"), profile() as prof:
        lowgrad.compile(lambda x: x + 1).lower(lowgrad.ones(64)).cross_compile("cuda:80")

    kernels = [e for e in prof.events() if e["cat"] == "kernel"]
    assert [(e["name"], e["args"]["target"]) for e in kernels] == [("add", "cuda:80")]
