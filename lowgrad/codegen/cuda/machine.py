"""What the memory plan must know of a GPU: the scratch of its kernels, and that no view is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.lower import lower
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.ir.graph import Node
from lowgrad.runtime.arena import ALIGNMENT
from lowgrad.runtime.memory import Machine


@dataclass(frozen=True)
class GpuMachine(Machine):
    """A GPU that kernels are lowered for with `tiling`."""

    tiling: Tiling = DEFAULT
    # Kernels read views of their operands through index maps; one that stands alone is a copy.
    free_views = frozenset()
    packs_pieces = True

    def scratch_bytes(self, node: Node, over: Mapping[int, int]) -> int:
        """Partial results that one kernel of the node leaves to the next."""
        return scratch_layout(lower(node, self.tiling))[1]

    def runs_in_pieces(self, loop: Node) -> bool:
        """Unless its kernels stream through it (attention)."""
        return not lower(loop, self.tiling)


def tiling_for(target: str) -> Tiling:
    """The sizes of blocks for the GPUs that `target` ("cuda:90") names."""
    return replace(DEFAULT, target=target)


def scratch_layout(kernels: Sequence[Kernel]) -> tuple[dict[str, int], int]:
    """Where the scratch of one node's kernels lies: offsets by param, and bytes in all."""
    offsets: dict[str, int] = {}
    end = 0
    for param in (p for kernel in kernels for p in kernel.params if p.role == "scratch"):
        if param.name not in offsets:
            offsets[param.name] = end
            end += -(-param.type.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, end
