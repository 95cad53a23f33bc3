"""What a compilation gives up for memory: the knobs that the search for a plan turns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trades:
    """Knobs of the passes, all off by default.

    loop_over: loops are made around products of at least so many bytes; None makes none.
    chunk_bytes: how many bytes of such a product a chunk of its loop may take.
    lean: loops go along the dim with least to add up, whatever they cost. Along the columns of a
      product it is made again for each sum over them, and no gradient of its weight is added up.
    narrow: a loop adds up the gradients of 16-bit weights in their own dtype, if its pieces are
      few: PyTorch's `allow_bf16_reduced_precision_reduction`, which it has on by default.
    remat: how many bytes of traffic a byte of memory is worth at the peak; 0 keeps everything.
    """

    loop_over: int | None = None
    chunk_bytes: int = 0
    lean: bool = False
    narrow: bool = False
    remat: float = 0.0


NOTHING = Trades()
