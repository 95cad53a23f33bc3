"""Data sets: what can be indexed, or iterated, sample by sample."""

from __future__ import annotations

import bisect
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

from lowgrad.errors import ArgumentError, IndexOutOfRange, ShapeError
from lowgrad.generator import Generator
from lowgrad.tensor import Tensor
from lowgrad.utils.data.sampler import host_rng

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Dataset(Generic[T_co]):
    """A map-style data set: a subclass gives `__getitem__`, and `__len__` for the default samplers.

    A subclass may give `__getitems__(indices) -> list of samples` to load a whole batch at once.
    """

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError("a subclass of Dataset must give __getitem__")

    def __add__(self, other: Dataset[T_co]) -> ConcatDataset[T_co]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """A stream of samples: a subclass gives `__iter__`.

    With several workers each iterates a copy; `get_worker_info()` tells them apart, so that each
    can give its own share.
    """

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError("a subclass of IterableDataset must give __iter__")

    def __add__(self, other: Dataset[T_co]) -> Any:
        raise ArgumentError(
            "+: streams of samples cannot be concatenated as map-style data sets are",
            fix="itertools.chain in the __iter__ of a new IterableDataset",
        )


class TensorDataset(Dataset["tuple[Tensor, ...]"]):
    """Samples are the rows of tensors: `TensorDataset(x, y)[i]` is `(x[i], y[i])`.

    tensors: [N, ...] each, one N for all.  Raises ShapeError if their first sizes differ.
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ArgumentError("TensorDataset: needs at least one tensor")
        if any(t.ndim == 0 for t in tensors) or len({t.shape[0] for t in tensors}) > 1:
            raise ShapeError(
                "TensorDataset: the tensors need one first size, the number of samples",
                operands=[f"tensor {i}  {tuple(t.shape)}" for i, t in enumerate(tensors)],
            )
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


class ConcatDataset(Dataset[T_co]):
    """Several data sets, one after the other.

    Raises ArgumentError without any, or if one is an IterableDataset.
    """

    datasets: list[Dataset[T_co]]
    cumulative_sizes: list[int]

    def __init__(self, datasets: Iterable[Dataset[T_co]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ArgumentError("ConcatDataset: needs at least one data set")
        for i, dataset in enumerate(self.datasets):
            if isinstance(dataset, IterableDataset):
                raise ArgumentError(f"ConcatDataset: data set {i} is an IterableDataset")
        self.cumulative_sizes = list(itertools.accumulate(_size(d) for d in self.datasets))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> T_co:
        size = len(self)
        if not -size <= index < size:
            raise IndexOutOfRange(
                f"ConcatDataset: index {index} is out of range for {size} samples"
            )
        index %= size
        which = bisect.bisect_right(self.cumulative_sizes, index)
        start = self.cumulative_sizes[which - 1] if which else 0
        return self.datasets[which][index - start]


class Subset(Dataset[T_co]):
    """The samples of `dataset` at `indices`, in that order."""

    dataset: Dataset[T_co]
    indices: Sequence[int]

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> T_co:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[T_co]:
        if type(self).__getitem__ is not Subset.__getitem__:
            return [self[i] for i in indices]  # a subclass changes the samples
        return fetch_samples(self.dataset, [self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Dataset[T], lengths: Sequence[int | float], generator: Generator | None = None
) -> list[Subset[T]]:
    """Subsets of the given lengths, without overlap, drawn at random.

    lengths: sample counts that add up to len(dataset), or fractions that add up to 1; then what
    rounding leaves goes to the first subsets, one each.
    Raises ArgumentError if they do not add up.
    """
    size = _size(dataset)
    counts = _split_counts(size, lengths)
    if sum(counts) != size:
        raise ArgumentError(
            f"random_split: the lengths {list(lengths)} add up to {sum(counts)}, "
            f"but the data set has {size} samples"
        )
    order = host_rng(generator).permutation(size).tolist()
    ends = itertools.accumulate(counts)
    return [Subset(dataset, order[e - n : e]) for e, n in zip(ends, counts, strict=True)]


def fetch_samples(dataset: Dataset[T], indices: Sequence[int]) -> list[T]:
    """The samples at `indices`, by one `__getitems__` if the data set has it."""
    at_once = getattr(dataset, "__getitems__", None)
    if callable(at_once):
        return cast("list[T]", at_once(indices))
    return [dataset[i] for i in indices]


def gather_rows(dataset: Dataset[Any], indices: Sequence[int]) -> list[Tensor] | None:
    """What `default_collate` makes of the samples at `indices`, by one gather a tensor.

    None if `dataset` is not a plain TensorDataset or a Subset of one: a subclass may transform its
    samples one by one, which this would leave out.
    """
    if type(dataset) is TensorDataset:
        rows = list(indices)
        return [tensor[rows] for tensor in dataset.tensors]
    if type(dataset) is Subset:
        return gather_rows(dataset.dataset, [dataset.indices[i] for i in indices])
    return None


def _split_counts(size: int, lengths: Sequence[int | float]) -> list[int]:
    if not (math.isclose(sum(lengths), 1) and sum(lengths) <= 1):
        if not all(isinstance(length, int) and length >= 0 for length in lengths):
            raise ArgumentError(
                f"random_split: {list(lengths)} are neither counts of samples nor fractions of 1"
            )
        return [int(length) for length in lengths]
    for i, fraction in enumerate(lengths):
        if not 0 <= fraction <= 1:
            raise ArgumentError(f"random_split: fraction {i} is {fraction}, not from 0 to 1")
    counts = [math.floor(size * fraction) for fraction in lengths]
    for i in range(size - sum(counts)):
        counts[i % len(counts)] += 1
    for i, count in enumerate(counts):
        if count == 0:
            warnings.warn(f"random_split: split {i} of {size} samples is empty", stacklevel=3)
    return counts


def _size(dataset: Any) -> int:
    return len(dataset)
