"""What a compiled step refuses, and what it says."""

from __future__ import annotations

import math
import random
import time
import warnings

import numpy as np
import pytest

import lowgrad
from lowgrad import CompileError

X = lowgrad.ones(3)


class Counter:
    def __init__(self):
        self.count = 0
        self.last = None


COUNTER = Counter()
SEEN: list = []


def branches(x):
    if x.sum() > 0:
        return x
    return -x


def loops(x):
    while x.sum() < 10:
        x = x * 2
    return x


def counts(x):
    COUNTER.count += 1
    return x


def appends(x):
    SEEN.append(1)
    return x


def stores(x):
    COUNTER.last = x + 1
    return x


def reads_an_iterator():
    numbers = iter([1, 2, 3])
    return lambda x: x * next(numbers)


PROGRAMS = {
    "if": (branches, "decides a Python `if`"),
    "while": (loops, "decides a Python `if` or `while`"),
    "bool": (lambda x: x if bool(x.any()) else -x, "decides a Python `if`"),
    "item": (lambda x: x * x.sum().item(), "item: a tensor's value is asked for"),
    "float": (lambda x: x * float(x.sum()), "a tensor's value is asked for"),
    "tolist": (lambda x: x.tolist(), "tolist: a tensor's value is asked for"),
    "numpy": (lambda x: lowgrad.tensor(x.numpy()), "numpy: a tensor's value is asked for"),
    "print": (lambda x: print(x), "is called while the step is recorded"),
    "f-string": (lambda x: f"{x}", "is printed while the step is recorded"),
    "mask": (lambda x: x[x > 0], "how many elements a mask selects"),
    "nonzero": (lambda x: x.nonzero(), "nonzero: the size of the result depends on values"),
    "time": (lambda x: x * time.time(), "time() is called while the step is recorded"),
    "random": (lambda x: x * random.random(), "random() is called"),
    "np.random": (lambda x: x * np.random.rand(), "the step reads np.random"),
    "counter": (counts, "the step changes COUNTER.count"),
    "append": (appends, "the step changes"),
    "stored tensor": (stores, "the step changes COUNTER.last"),
    "iterator": (reads_an_iterator(), "the step reads numbers"),
    "return": (lambda x: object(), "returns a object, which a replay could not make again"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_refused_with_the_line(name):
    function, message = PROGRAMS[name]

    with pytest.raises(CompileError) as error:
        lowgrad.compile(function)(X)

    text = str(error.value)
    assert message in " ".join(text.split())
    assert "test_compile_errors.py" in text
    assert "fix:" in text
    assert len(text.splitlines()) <= 12


def test_the_full_text():
    with pytest.raises(CompileError) as error:
        lowgrad.compile(branches)(X)

    lines = str(error.value).splitlines()
    line = branches.__code__.co_firstlineno + 1
    assert lines[0].startswith("a tensor's value decides a Python `if` or `while`")
    assert lines[1] == "  tensor  b1[]"
    assert lines[2].endswith(f"test_compile_errors.py:{line}, in branches")
    assert lines[3] == "  fix: lowgrad.where(condition, a, b) computes both and chooses"


def test_the_fix_for_a_branch_works():
    fixed = lowgrad.compile(lambda x: lowgrad.where(x.sum() > 0, x, -x))

    assert fixed(X).tolist() == [1, 1, 1]
    assert fixed(-X).tolist() == [1, 1, 1]


def test_many_recordings_warn_and_name_what_changes():
    step = lowgrad.compile(lambda x, scale: x * scale)
    for i in range(7):
        step(X, i / 10)

    with pytest.warns(lowgrad.CompileWarning, match="8 times in 8 calls") as caught:
        step(X, 0.7)

    assert "scale (0.6 -> 0.7)" in str(caught[0].message)


def test_a_tensor_in_place_of_the_number_does_not_record_again():
    step = lowgrad.compile(lambda x, scale: x * scale)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(20):
            step(X, lowgrad.tensor(i / 10))

    assert step.recordings == 1


NO_SIZES = ["lots", "2 GiBs", "-1", "", " ", "GiB", "1.2.3", ".", "1.", "0", "0GB", "0.1", "nan"]
NO_SIZES += ["inf", "1e9", "2 iB", "1 2", "\u0662GiB", 0, -1, 1.5, math.nan, math.inf, True, False]


@pytest.mark.parametrize("memory", [*NO_SIZES, b"1GiB", [1]], ids=repr)
def test_a_budget_that_is_no_size_is_refused(memory):
    with pytest.raises(lowgrad.ArgumentError, match="is not a size; it is a positive number of"):
        lowgrad.compile(lambda x: x, memory=memory)


@pytest.mark.parametrize(
    ("memory", "nbytes"),
    [
        (4096, 4096),
        (np.int64(5), 5),
        ("4096", 4096),
        ("7 B", 7),
        ("512MB", 512_000_000),
        ("1.5 GB", 1_500_000_000),
        (" .5kib ", 512),
        ("2GiB", 2 << 30),
        ("2G", 2_000_000_000),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_a_budget_is_bytes_or_text(memory, nbytes):
    weight = lowgrad.zeros(1 << 10)
    step = lowgrad.compile(lambda: weight.add_(1.0), memory=memory)

    assert step._options.memory == nbytes


def test_a_budget_below_the_state_names_what_is_missing_and_runs_nothing():
    weight = lowgrad.zeros(1000)
    step = lowgrad.compile(lambda: weight.add_(1.0), memory=3000)

    with pytest.raises(
        lowgrad.OutOfMemory, match=r"alone take 4000 bytes; the budget is 3000, 1000"
    ):
        step()
    assert weight.sum().item() == 0


def test_an_unknown_device_is_refused():
    with pytest.raises(lowgrad.DeviceError, match='device: "tpu" is not known'):
        lowgrad.compile(lambda x: x, device="tpu")


def test_a_step_for_a_gpu_that_is_not_there_is_planned_but_not_run():
    step = lowgrad.compile(lambda x: x * 2, device="cuda")

    assert step.lower(lowgrad.ones(4)).plan.arena_bytes == 16
    with pytest.raises(lowgrad.DeviceError, match="cuda"):
        step(lowgrad.ones(4))
