"""Where the boxes of a graph of kernels go: layers by depth, ordered so that few edges cross.

Source: Sugiyama, Tagawa, Toda 1981, "Methods for visual understanding of hierarchical system
structures"; the ordering is by barycentres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 200, 46
GAP_X, GAP_Y = 26, 40
SWEEPS = 6


@dataclass(frozen=True)
class Layout:
    """The left upper corner of each box, and the size of the whole."""

    places: tuple[tuple[int, int], ...]
    width: int
    height: int


def place(count: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """Places for `count` boxes. edges: from a box to a later one."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        after[a].append(b)
        before[b].append(a)
    layers = _layers(before)
    for sweep in range(SWEEPS):
        neighbours, ordered = (before, layers) if sweep % 2 == 0 else (after, layers[::-1])
        at = {box: i - len(layer) / 2 for layer in layers for i, box in enumerate(layer)}
        for layer in ordered:
            weights = {box: _mean([at[n] for n in neighbours[box]], at[box]) for box in layer}
            layer.sort(key=weights.__getitem__)
            at.update({box: i - len(layer) / 2 for i, box in enumerate(layer)})
    widest = max(map(len, layers), default=1)
    places = [(0, 0)] * count
    for depth, layer in enumerate(layers):
        left = (widest - len(layer)) * (WIDTH + GAP_X) // 2
        for i, box in enumerate(layer):
            places[box] = (GAP_X + left + i * (WIDTH + GAP_X), GAP_Y + depth * (HEIGHT + GAP_Y))
    width = widest * (WIDTH + GAP_X) + GAP_X
    return Layout(tuple(places), width, len(layers) * (HEIGHT + GAP_Y) + GAP_Y)


def _layers(before: Sequence[Sequence[int]]) -> list[list[int]]:
    depth: list[int] = []
    for sources in before:
        depth.append(1 + max((depth[s] for s in sources), default=-1))
    layers: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for box, layer in enumerate(depth):
        layers[layer].append(box)
    return layers


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
