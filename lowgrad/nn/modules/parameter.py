"""Parameter: a tensor that a module learns."""

from __future__ import annotations

from typing import Any

from lowgrad.tensor import Tensor


class Parameter(Tensor):
    """A tensor that registers itself when it becomes an attribute of a Module.

    data: any tensor; its value is taken over, its history is not.
    """

    __slots__ = ()

    def __init__(self, data: Any = (), requires_grad: bool = True) -> None:
        super().__init__(data.detach() if isinstance(data, Tensor) else data, requires_grad)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
