"""Equal work is equal text: the kernels of layers that are alike differ in no byte."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.lower import Launch
from lowgrad.errors import Location


def alike(made: Iterable[Launch]) -> Iterator[Launch]:
    """The same launches, where equal work has equal text: a comment stays if it is true of all.

    Equal layers are called from different lines; `Kernel.loc` is each launch's own.
    """
    kept = list(made)
    equal: dict[Hashable, list[Kernel]] = {}
    for kernel, _ in kept:
        equal.setdefault(_work_of(kernel), []).append(kernel)
    locs = {key: _locs_of_all(kernels) for key, kernels in equal.items()}
    for kernel, times in kept:
        yield Launch(replace(kernel, locs=locs[_work_of(kernel)]), times)


def _work_of(kernel: Kernel) -> Hashable:
    """What the text of a kernel is made from, its comments aside."""
    params = tuple([(p.name, p.type, p.box) for p in kernel.params])
    return kernel.name, params, tuple(kernel.constants.items()), kernel.body, kernel.wide


def _locs_of_all(kernels: list[Kernel]) -> dict[str, Location]:
    first, *others = kernels
    return {n: at for n, at in first.locs.items() if all(k.locs.get(n) == at for k in others)}
