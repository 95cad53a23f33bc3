"""Steps that are run on this CPU, against PyTorch eager: time, and the memory of the process."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from benchmarks import heads, measure, networks, transformers
from benchmarks.figure import Figure, Section
from benchmarks.programs import Make, Program, fill_weights, library, loss_of

MIB = 2**20
SAME_LOSS = 1e-3  # relative: a float32 step in another order


@dataclass(frozen=True)
class Contest:
    """A program and its bounds: time and peak memory as ratios to PyTorch eager, first call in s.

    child: its name in benchmarks.child, if its memory is measured.
    """

    name: str
    make: Make
    time: float
    seconds: float
    child: str | None = None
    memory: float | None = None
    first_call_s: float | None = None
    least_rounds: int = 5
    warmup: int = 3


CONTESTS = [
    Contest("classifier", networks.classifier, time=0.8, seconds=5, first_call_s=0.5),
    Contest("wide net", networks.wide_net, time=1.1, seconds=20),
    Contest("GPT", transformers.gpt, time=1.8, seconds=20, child="gpt", memory=0.6),
    Contest(
        "LM head",
        heads.lm_head,
        time=1.25,
        seconds=60,
        child="lm-head",
        memory=0.3,
        least_rounds=3,
        warmup=1,
    ),
]
QUICK = [
    Contest("classifier", networks.classifier, time=0.8, seconds=0),
    Contest(
        "LM head",
        lambda lib: heads.lm_head(lib, heads.MEDIUM),
        time=1.25,
        seconds=0,
        child="lm-head-medium",
        memory=0.3,
    ),
]


def executed(quick: bool) -> Section:
    """Each contest's time and memory."""
    figures = []
    for contest in QUICK if quick else CONTESTS:
        figures += [*timed(contest), *resident(contest, runs=1 if quick else 3)]
    return Section("Executed on this CPU, against PyTorch eager", figures)


def timed(contest: Contest) -> list[Figure]:
    """The compiled step's time over PyTorch eager's; the losses of the first step must agree."""
    import lowgrad

    ours, theirs = both(contest.make)
    compiled = lowgrad.compile(ours.step)
    start = time.perf_counter()
    first = loss_of(compiled(*ours.batch))
    first_s = time.perf_counter() - start
    assert_same_losses(contest.name, [first], [loss_of(theirs.step(*theirs.batch))])
    found = measure.compare(
        lambda: compiled(*ours.batch),
        lambda: theirs.step(*theirs.batch),
        seconds=contest.seconds,
        warmup=contest.warmup,
        least_rounds=contest.least_rounds,
    )
    return [
        Figure(f"{contest.name}: time / PyTorch eager", found.ratio, "x", contest.time),
        Figure(f"{contest.name}: compiled step", found.ours_s * 1e3, "ms"),
        Figure(f"{contest.name}: PyTorch eager step", found.theirs_s * 1e3, "ms"),
        Figure(f"{contest.name}: first call", first_s, "s", contest.first_call_s),
    ]


def both(make: Make) -> tuple[Program, Program]:
    """The program for lowgrad and for PyTorch, with the same weights."""
    own, torch = library("lowgrad"), library("torch")
    return fill_weights(make(own), own), fill_weights(make(torch), torch)


def resident(contest: Contest, runs: int) -> list[Figure]:
    """The peak of the resident memory above the imports', over PyTorch eager's; in turns."""
    if contest.child is None:
        return []
    pairs = [
        [measure.in_own_process(framework, contest.child, 2) for framework in ("lowgrad", "torch")]
        for _ in range(runs)
    ]
    for ours, theirs in pairs:
        assert_same_losses(contest.name, ours.losses, theirs.losses)
    mine, other = (
        statistics.median(pair[side].peak_bytes for pair in pairs) / MIB for side in (0, 1)
    )
    name = f"{contest.name}: peak memory"
    return [
        Figure(f"{name} / PyTorch eager", mine / other, "x", contest.memory),
        Figure(f"{name}, compiled step", mine, "MiB"),
        Figure(f"{name}, PyTorch eager step", other, "MiB"),
    ]


def assert_same_losses(name: str, ours: list[float], theirs: list[float]) -> None:
    """Stop unless both trained alike: a ratio of two different things says nothing."""
    for got, want in zip(ours, theirs, strict=True):
        if not abs(got - want) <= SAME_LOSS * abs(want):
            raise AssertionError(f"{name}: the losses differ, {ours} and {theirs}")
