"""Fused against unfused: the same step compiled twice, for models of several kinds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from benchmarks import heads, measure, networks, transformers
from benchmarks.figure import Figure, Grid, Section
from benchmarks.programs import Make, fill_weights, library, loss_of

SAME_LOSS = 1e-5  # relative: fusing may only round sums in another order
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A model, and how many times fewer kernels and bytes its fused step must have."""

    name: str
    make: Make
    kernels: float = 3.0
    moved: float = 1.5


HEAD_LOSSES: dict[str, heads.HeadLoss] = {
    "cross-entropy": heads.cross_entropy,
    "soft cap, z-loss": heads.capped_with_z_loss,
    "focal": heads.focal,
}
CASES = [
    Case("classifier", networks.classifier, moved=2.0),
    Case("wide net", networks.wide_net),
    *(
        Case(f"LM head, {name}", partial(heads.lm_head, size=heads.MEDIUM, loss=loss))
        for name, loss in HEAD_LOSSES.items()
    ),
    Case("autoencoder, sigmoid and BCE", networks.autoencoder),
    Case("regression with dropout", networks.noisy_regression),
    Case("MLP-mixer", networks.mixer),
    Case("GPT", transformers.gpt, moved=2.0),
]
QUICK = [
    Case("classifier", networks.classifier),
    Case("LM head, focal", partial(heads.lm_head, size=heads.TINY, loss=heads.focal)),
    Case("GPT", partial(transformers.gpt, size=transformers.TINY)),
]


@dataclass(frozen=True)
class Pair:
    """What a fused step and its unfused twin take. In a pair of numbers the fused one is first."""

    kernels: tuple[int, int]
    moved_bytes: tuple[int, int]
    arena_bytes: tuple[int, int]
    step_s: tuple[float, float]


def fusion(quick: bool) -> Section:
    """Kernels, bytes moved, arena and time of every case; its losses must be the same."""
    cases = QUICK if quick else CASES
    pairs = {case.name: measured(case, seconds=0.0 if quick else 4.0) for case in cases}
    figures = [f for case in cases for f in _figures(case, pairs[case.name])]
    columns = ("model", "kernels", "x", "MB moved", "x", "arena MiB", "x", "CPU ms", "x")
    rows = [(name, *_row(pair)) for name, pair in pairs.items()]
    data = {"ratios": {name: _ratios(pair) for name, pair in pairs.items()}}
    return Section(
        "Fused / unfused, the losses of 3 steps equal", figures, Grid(columns, rows), data
    )


def measured(case: Case, seconds: float) -> Pair:
    """Both steps of one case, from the same weights and the same random stream."""
    import lowgrad

    lib = library("lowgrad")
    programs = [fill_weights(case.make(lib), lib) for _ in range(2)]
    steps = [
        lowgrad.compile(program.step, fuse=fuse)
        for program, fuse in zip(programs, (True, False), strict=True)
    ]
    losses = []
    for step, program in zip(steps, programs, strict=True):
        lowgrad.manual_seed(0)
        losses.append([loss_of(step(*program.batch)) for _ in range(STEPS)])
    for fused, unfused in zip(*losses, strict=True):
        if not abs(fused - unfused) <= SAME_LOSS * abs(unfused):
            raise AssertionError(f"{case.name}: fused and unfused losses differ: {losses}")
    batch = programs[0].batch
    both = [step.lower(*batch) for step in steps]
    times = measure.compare(
        lambda: steps[0](*batch), lambda: steps[1](*batch), seconds=seconds, least_rounds=3
    )
    return Pair(
        kernels=_two(c.cost.kernels for c in both),
        moved_bytes=_two(c.cost.bytes for c in both),
        arena_bytes=_two(c.plan.arena_bytes for c in both),
        step_s=(times.ours_s, times.theirs_s),
    )


def _two(numbers: Iterable[int]) -> tuple[int, int]:
    fused, unfused = numbers
    return fused, unfused


def _ratios(pair: Pair) -> dict[str, float]:
    """How many times more of each the unfused step has."""
    return {
        "kernels": pair.kernels[1] / pair.kernels[0],
        "bytes moved": pair.moved_bytes[1] / pair.moved_bytes[0],
        "arena": pair.arena_bytes[1] / max(pair.arena_bytes[0], 1),
        "CPU time": pair.step_s[1] / pair.step_s[0],
    }


def _figures(case: Case, pair: Pair) -> list[Figure]:
    bounds = {"kernels": case.kernels, "bytes moved": case.moved, "arena": 1.0, "CPU time": None}
    ratios = [
        Figure(f"{case.name}: unfused / fused {what}", ratio, "x", bounds[what], at_least=True)
        for what, ratio in _ratios(pair).items()
    ]
    return [
        *ratios,
        Figure(f"{case.name}: kernels, fused", pair.kernels[0]),
        Figure(f"{case.name}: kernels, unfused", pair.kernels[1]),
        Figure(f"{case.name}: bytes moved, fused", pair.moved_bytes[0], "B"),
        Figure(f"{case.name}: arena, fused", pair.arena_bytes[0], "B"),
    ]


def _row(pair: Pair) -> list[str]:
    """`fused / unfused` and how many times more, for each."""
    shown = [
        "{:,} / {:,}".format(*pair.kernels),
        "{:,.1f} / {:,.1f}".format(*(n / 1e6 for n in pair.moved_bytes)),
        "{:,.1f} / {:,.1f}".format(*(n / 2**20 for n in pair.arena_bytes)),
        "{:,.2f} / {:,.2f}".format(*(s * 1e3 for s in pair.step_s)),
    ]
    ratios = [f"{ratio:.1f}" for ratio in _ratios(pair).values()]
    return [cell for both in zip(shown, ratios, strict=True) for cell in both]
