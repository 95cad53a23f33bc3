"""Collating: from a list of samples to a batch of tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.functional.shape import stack
from lowgrad.ir.types import dtype_of
from lowgrad.tensor import Tensor, from_array

CollateMap = dict["type | tuple[type, ...]", Callable[..., Any]]


def default_collate(batch: Sequence[Any]) -> Any:
    """A batch of `batch`, by the type of its first sample.

    | samples                              | batch                                             |
    |--------------------------------------|---------------------------------------------------|
    | tensors or arrays [...]              | a tensor [len(batch), ...]                        |
    | bool, int, float, NumPy scalars      | a tensor [len(batch)]; float gives float64        |
    | str, bytes                           | the list itself                                   |
    | mappings                             | the mapping of each key's collated values         |
    | named tuples                         | the named tuple of the collated fields            |
    | tuples, lists                        | a list of the collated elements                   |

    Raises ShapeError if samples differ in shape or length, DTypeError for other types.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)


def collate(batch: Sequence[Any], *, collate_fn_map: CollateMap | None = None) -> Any:
    """`default_collate` with other functions for the leaves: `{type: fn(batch, collate_fn_map=)}`.

    An exact type goes before a parent class, and an earlier entry before a later one.
    """
    table = collate_fn_map or {}
    first = batch[0]
    leaf = table.get(type(first)) or next(
        (f for t, f in table.items() if isinstance(first, t)), None
    )
    if leaf is not None:
        return leaf(batch, collate_fn_map=collate_fn_map)

    def inner(parts: Sequence[Any]) -> Any:
        return collate(parts, collate_fn_map=collate_fn_map)

    if isinstance(first, Mapping):
        return _like_mapping(first, {k: inner([sample[k] for sample in batch]) for k in first})
    if isinstance(first, Sequence):
        _check_lengths(batch)
        parts = [inner(samples) for samples in zip(*batch, strict=True)]
        return _like_sequence(first, parts)
    raise _unknown(type(first).__name__)


def default_convert(data: Any) -> Any:
    """`data` with every NumPy array in it as a tensor: what a loader with batch_size=None gives."""
    if isinstance(data, (Tensor, str, bytes)):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        return data if np.asarray(data).dtype.kind in "SUO" else _tensor(np.array(data))
    if isinstance(data, Mapping):
        return _like_mapping(data, {key: default_convert(data[key]) for key in data})
    if isinstance(data, Sequence):
        return _like_sequence(data, [default_convert(part) for part in data])
    return data


def collate_tensors(batch: Sequence[Tensor], *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """Tensors [...] stacked to [len(batch), ...]."""
    if any(tensor.requires_grad for tensor in batch):
        return stack(list(batch))
    # Data needs no gradient, and one copy by NumPy beats a recorded stack of many small tensors.
    return _stacked([tensor._array("default_collate") for tensor in batch])


def collate_arrays(
    batch: Sequence[np.ndarray[Any, Any]], *, collate_fn_map: CollateMap | None = None
) -> Tensor:
    """Arrays [...] stacked to [len(batch), ...]."""
    if batch[0].dtype.kind in "SUO":
        raise _unknown(f"arrays of {batch[0].dtype}")
    return _stacked(batch)


def collate_scalars(batch: Sequence[Any], *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """NumPy scalars, ints and bools: a tensor [len(batch)] of their type."""
    return _tensor(np.array(batch))


def collate_floats(batch: Sequence[Any], *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """Python floats: float64, which is what they are."""
    return _tensor(np.array(batch, dtype=np.float64))


def collate_text(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """Texts stay as they are."""
    return batch


# np.float64 is also a float and bool also an int, so the order decides.
default_collate_fn_map: CollateMap = {
    Tensor: collate_tensors,
    np.ndarray: collate_arrays,
    (np.bool_, np.number): collate_scalars,
    float: collate_floats,
    int: collate_scalars,
    str: collate_text,
    bytes: collate_text,
}


def _stacked(arrays: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ShapeError(
                "default_collate: the samples of a batch need one shape",
                operands=[f"sample 0  {arrays[0].shape}", f"sample {i}  {array.shape}"],
                fix="pad them, or give the DataLoader a collate_fn",
            )
    return _tensor(np.stack(arrays))


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor on `array`, which the caller has just made."""
    if dtype_of(array) is None:
        raise DTypeError(
            f"default_collate: lowgrad has no dtype for NumPy's {array.dtype}",
            fix="convert it in the data set, array.astype(...)",
        )
    return from_array(array)


def _like_mapping(first: Mapping[Any, Any], values: dict[Any, Any]) -> Mapping[Any, Any]:
    """`values` in a mapping of the type of `first`, with its extra attributes if it has any."""
    try:
        if isinstance(first, MutableMapping):
            made = copy.copy(first)
            made.update(values)
            return made
        return type(first)(values)  # type: ignore[call-arg]
    except TypeError:  # a type that cannot be made from a dict
        return values


def _like_sequence(first: Sequence[Any], parts: list[Any]) -> Any:
    """`parts` in a sequence of the type of `first`; plain tuples become lists, as in PyTorch."""
    if isinstance(first, tuple):
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    try:
        if isinstance(first, MutableSequence):
            made = copy.copy(first)
            for i, part in enumerate(parts):
                made[i] = part
            return made
        return type(first)(parts)  # type: ignore[call-arg]
    except TypeError:  # range, array.array
        return parts


def _check_lengths(batch: Iterable[Sequence[Any]]) -> None:
    lengths = [len(sample) for sample in batch]
    for i, length in enumerate(lengths):
        if length != lengths[0]:
            raise ShapeError(
                f"default_collate: sample 0 has {lengths[0]} elements, sample {i} has {length}",
                fix="give the DataLoader a collate_fn",
            )


def _unknown(what: str) -> DTypeError:
    return DTypeError(
        f"default_collate: samples may hold tensors, arrays, numbers, texts, mappings and "
        f"sequences, not {what}",
        fix="give the DataLoader a collate_fn",
    )
