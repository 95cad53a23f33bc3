"""Fusion: what one kernel can do becomes one `fused` node, so that less goes through memory.

Five steps, each a file: look at the graph without its views (dataflow), merge nodes whose values
can stay on the chip (grouping), let readers recompute what is cheaper to recompute than to move
(recompute), merge kernels that go through the same memory or are small (sharing), and write the
groups down (regions).
"""

from __future__ import annotations

from lowgrad.ir.graph import Graph
from lowgrad.passes.base import graph_pass
from lowgrad.passes.dataflow import flow_of
from lowgrad.passes.fusions import decisions_of
from lowgrad.passes.grouping import group_nodes
from lowgrad.passes.recompute import Traffic, choose_recomputed
from lowgrad.passes.regions import with_regions
from lowgrad.passes.sharing import share_kernels


def decided(graph: Graph) -> Traffic:
    """What is one kernel, and what each of them reads and repeats."""
    traffic = choose_recomputed(group_nodes(flow_of(graph)))
    share_kernels(traffic)
    return traffic


@graph_pass(
    "fuse",
    exact=False,
    reason="inside a region 16-bit floats are not rounded after each operation",
    explain=lambda graph: decisions_of(decided(graph)),
)
def fuse(graph: Graph) -> Graph:
    """Make regions. f32 and f64 values keep every bit; 16-bit ones lose fewer."""
    return with_regions(decided(graph))
