"""One computation against its rivals: written once for both libraries, checked, then timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lowgrad
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.rivals import KERNELS, first_line
from benchmarks.gpu_parts.row import OURS, Row, Side

# Relative to the norm of PyTorch's result: a rounding to bfloat16 is 2e-3 of it.
ALLOWED = {"bfloat16": 2e-2, "float32": 2e-4}

Call = Callable[..., Any]


@dataclass(frozen=True)
class Contest:
    """`call(library, *tensors)`, and with `learned` its gradients of those tensors.

    seeded: the last tensor is the gradient of the result. work, unit: what must be moved
    ("B") or computed ("FLOP"). liger: the same computation by Liger-Kernel, of tensors.
    compiles: whether torch.compile takes part; not where it calls the library that eager does.
    budget: the most bytes that lowgrad may use, inputs and results included; None for no budget.
    rivals: whether they take part.
    """

    name: str
    call: Call
    tensors: tuple[Any, ...]
    work: float
    unit: str
    learned: tuple[int, ...] = ()
    seeded: bool = False
    dtype: str = "bfloat16"
    liger: Call | None = None
    compiles: bool = True
    budget: int | None = None
    rivals: bool = True
    autotune_s: float = 60.0


def training(call: Call, learned: Sequence[int], seeded: bool) -> Call:
    """(*tensors) -> (value, *gradients), for either library."""

    def step(*tensors: Any) -> Any:
        last = len(tensors) - seeded
        leaves = [
            t.detach().requires_grad_() if i in learned else t for i, t in enumerate(tensors[:last])
        ]
        value = call(*leaves)
        value.backward(*tensors[last:])
        return value.detach(), *(leaves[i].grad for i in learned)

    return step


def contest(bench: Bench, of: Contest, *, memory: bool = False) -> Row:
    """The row: all sides agree with PyTorch eager, then all are timed in turns.

    memory: also the most that each takes above its inputs and results.
    """
    ours = _ours(bench, of)
    calls, notes = _sides(bench, of)
    calls = {OURS: ours, **calls}
    taken: dict[str, int | None] = {}
    reference, worst = None, None
    for name in [n for n in ("eager", OURS, "compile", "liger") if n in calls]:
        made = _tried(bench, name, calls, notes, taken, memory)
        if made is None:
            continue
        if name == "eager":
            reference = made
        elif reference is not None:
            off = _agreement(bench, made, reference, theirs=name != OURS)
            if name == OURS:
                worst = off
            elif off > ALLOWED[of.dtype]:
                notes[name] = _joined(notes.get(name), f"differs from eager by {off:.1g}")
        del made
    reference = None
    bench.free()
    times = bench.clock.kernels(calls)
    sides = {
        name: Side(times.get(name), taken.get(name), notes.get(name, ""))
        for name in [OURS, "eager", "compile", "liger"]
        if name in times or name in notes
    }
    ceiling = bench.copy_rate if of.unit == "B" else bench.product_rate
    figures = [ours.moved(of)] if worst is None else [_agrees(worst, of.dtype), ours.moved(of)]
    return Row(of.name, sides, of.work, of.unit, ceiling, tuple(figures), bench.no_torch)


def _agrees(off: float, dtype: str) -> Figure:
    return Figure("error against PyTorch eager", off, "of the norm", ALLOWED[dtype])


def _sides(bench: Bench, of: Contest) -> tuple[dict[str, Call], dict[str, str]]:
    """The rivals that can be made here, and why others cannot."""
    calls: dict[str, Call] = {}
    notes: dict[str, str] = {}
    if bench.torch is None or not of.rivals:
        return calls, notes
    wrapped = _wrapper(of)
    torch, theirs = bench.torch, bench.theirs
    tensors = of.tensors

    def plain(*ts: Any) -> Any:
        return of.call(theirs, *ts)

    eager = wrapped(plain)
    calls["eager"] = lambda: eager(*tensors)
    if of.compiles:
        limit = min(of.autotune_s, bench.left_s() / 3)
        try:
            fast, notes["compile"] = torch.compiled(
                plain, lambda made: wrapped(made)(*tensors), modes=KERNELS, limit_s=limit
            )
            inner = wrapped(fast)
            calls["compile"] = lambda: inner(*tensors)
        except Exception as error:
            notes["compile"] = first_line(error)
    if of.liger is not None:
        own = tuple(t.clone() for t in tensors)  # Liger's kernels write over their inputs
        theirs_too = wrapped(of.liger)
        calls["liger"] = lambda: theirs_too(*own)
    return calls, notes


def _wrapper(of: Contest) -> Callable[[Call], Call]:
    if of.learned:
        return lambda function: training(function, of.learned, of.seeded)
    return lambda function: function


@dataclass(frozen=True)
class _Ours:
    """lowgrad's side: the compiled function and its tensors."""

    step: Any
    tensors: list[Any]

    def __call__(self) -> Any:
        return self.step(*self.tensors)

    def moved(self, of: Contest) -> Figure:
        """What its kernels move or compute by their own account, over what must be."""
        cost = self.step.lower(*self.tensors).cost
        done, what = (cost.bytes, "bytes moved") if of.unit == "B" else (cost.flops, "FLOP")
        return Figure(f"{what} / needed", done / of.work, "x")


def _ours(bench: Bench, of: Contest) -> _Ours:
    library, call = bench.own, of.call

    def plain(*ts: Any) -> Any:
        return call(library, *ts)

    step = lowgrad.compile(_wrapper(of)(plain), device=bench.device, memory=of.budget)
    return _Ours(step, [bench.ours(t) for t in of.tensors])


def _tried(
    bench: Bench,
    name: str,
    calls: dict[str, Call],
    notes: dict[str, str],
    taken: dict[str, int | None],
    memory: bool,
) -> list[Any] | None:
    """The results of one call; a rival that fails is left out, and its row says why."""
    if memory:
        bench.free()
    try:
        if memory:
            made, taken[name] = measured(bench, name, calls[name])
        else:
            made = results_of(calls[name]())
            lowgrad.cuda.synchronize()
    except Exception as error:
        if name == OURS:
            raise
        notes[name] = _joined(notes.get(name), first_line(error))
        del calls[name]
        return None
    return made


def measured(bench: Bench, name: str, function: Call) -> tuple[list[Any], int | None]:
    """A call's results, and the most bytes that were allocated above those before and the results.

    For lowgrad it must be the first call, which allocates the arena that stays.
    """
    if name == OURS:
        before = lowgrad.cuda.memory_allocated()
        lowgrad.cuda.reset_peak_memory_stats()
        made = results_of(function())
        lowgrad.cuda.synchronize()
        return made, lowgrad.cuda.max_memory_allocated() - before - nbytes(made)
    torch = bench.torch
    assert torch is not None, "the others are PyTorch's"
    before = torch.allocated()
    if before is None:
        return results_of(function()), None
    torch.reset_peak()
    made = results_of(function())
    torch.wait()
    return made, torch.peak() - before - nbytes(made)


def results_of(made: Any) -> list[Any]:
    """What a call returned, as a list."""
    return list(made) if isinstance(made, (tuple, list)) else [made]


def nbytes(tensors: list[Any]) -> int:
    """The bytes of their elements, for either library."""
    return sum(int(t.numel()) * _itemsize(t.dtype) for t in tensors)


def _itemsize(dtype: Any) -> int:
    return int(dtype.itemsize)


def _agreement(bench: Bench, made: list[Any], reference: list[Any], theirs: bool) -> float:
    if theirs:
        return max(_between(a, b) for a, b in zip(made, reference, strict=True))
    return max(bench.error(a, b) for a, b in zip(made, reference, strict=True))


def _between(a: Any, b: Any) -> float:
    a, b = a.detach(), b.detach()
    norm = float(b.float().norm())
    return float((a.float() - b.float()).norm()) / max(norm, 1e-15)


def _joined(*notes: str | None) -> str:
    return "; ".join(n for n in notes if n)
