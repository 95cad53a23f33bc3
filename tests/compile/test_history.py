"""Why a step was recorded again, in `explain()` and in the log; and what the log says."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

import lowgrad
from lowgrad import nn


def reasons(step):
    return [r.reason for r in step.history.recorded]


def test_the_first_recording_is_the_first_call():
    step = lowgrad.compile(lambda x: x + 1)
    step(lowgrad.ones(2))
    step(lowgrad.ones(2))

    assert reasons(step) == ["the first call"]


def test_a_changed_shape_dtype_and_flag_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    step = lowgrad.compile(lambda x: model(x))
    step(lowgrad.ones(2, 4))
    step(lowgrad.ones(3, 4))
    model.eval()
    step(lowgrad.ones(3, 4))

    _, shape, flag = reasons(step)
    assert shape == "x (f32[2,4] -> f32[3,4])"
    assert "training (True -> False)" in flag


def test_a_changed_number_of_the_program_is_named():
    scale = {"factor": 2.0}
    step = lowgrad.compile(lambda x: x * scale["factor"])
    step(lowgrad.ones(2))
    scale["factor"] = 3.5
    step(lowgrad.ones(2))

    assert reasons(step)[1] == "scale['factor'] (2.0 -> 3.5)"


def test_the_nearest_recording_is_compared_not_the_last():
    step = lowgrad.compile(lambda x, n: x * n)
    step(lowgrad.ones(2), 1)
    step(lowgrad.ones(5, 5), 7)
    step(lowgrad.ones(2), 2)

    assert reasons(step)[2] == "n (1 -> 2)"


def test_explain_counts_calls_and_recordings():
    def step(x):
        return x + 1

    step = lowgrad.compile(step)
    for size in (2, 3, 2):
        step(lowgrad.ones(size))

    head, first, second = step.explain().splitlines()
    assert head == "step: 2 recordings in 3 calls"
    assert first.startswith("1. at call 1, ")
    assert second.endswith("1 nodes: x (f32[2] -> f32[3])") or "x (f32[2] -> f32[3])" in second


@pytest.fixture
def records(caplog):
    for topic in ("record", "passes", "fusion", "memory"):
        caplog.set_level(logging.INFO, logger=f"lowgrad.{topic}")
    return caplog


def test_records_carry_their_data(records):
    lowgrad.compile(lambda x: (x * 2).exp().sum())(lowgrad.ones(64))

    by_topic = {}
    for record in records.records:
        by_topic.setdefault(record.name, []).append(record.data)
    assert by_topic["lowgrad.record"][0]["why"] == "the first call"
    passes = {data["what"]: data for data in by_topic["lowgrad.passes"]}
    assert {"dce", "cse", "fuse"} <= passes.keys()
    assert passes["fuse"]["ms"] >= 0
    assert any(data["what"] == "made" for data in by_topic["lowgrad.fusion"])
    memory = by_topic["lowgrad.memory"][0]
    assert memory["peak"] >= memory["arena"] >= memory["lower_bound"]


def test_the_variable_sends_chosen_topics_to_standard_error():
    code = "import lowgrad; lowgrad.compile(lambda x: x * 2)(lowgrad.ones(4))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LOWGRAD_LOG": "record,passes"},
        capture_output=True,
        text=True,
        check=True,
    )

    lines = done.stderr.splitlines()
    assert {line.split(":")[0] for line in lines} == {"lowgrad.record", "lowgrad.passes"}
    assert any(line.startswith("lowgrad.passes: dce  graph=") for line in lines)
    assert 'why="the first call"' in done.stderr


def test_nothing_is_logged_unasked():
    code = "import lowgrad; lowgrad.compile(lambda x: x * 2)(lowgrad.ones(4))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr == ""
