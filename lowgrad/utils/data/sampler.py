"""Samplers: in which order the samples of a map-style data set are visited."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from lowgrad.errors import ArgumentError
from lowgrad.generator import Generator, default_generator

T_co = TypeVar("T_co", covariant=True)


def host_rng(generator: Generator | None) -> np.random.Generator:
    """Fresh random numbers for the host from `generator`, or from the default one; it moves on."""
    return (default_generator if generator is None else generator).numpy()


class Sampler(Generic[T_co]):
    """A subclass gives `__iter__`, and `__len__` if the loader is to have a length."""

    def __init__(self, data_source: Any = None) -> None:
        """`data_source` is taken for the sake of older programs, and not kept."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError("a subclass of Sampler must give __iter__")


class SequentialSampler(Sampler[int]):
    """0, 1, ..., len(data_source) - 1."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Random indices: another shuffle each time it is iterated, or draws with replacement.

    num_samples: how many; all of them if not given.  More than there are begin another shuffle.
    Raises ArgumentError if num_samples is not positive, so also if there are no samples.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.data_source = data_source
        self.replacement = _checked_flag("RandomSampler", "replacement", replacement)
        self._num_samples = num_samples
        self.generator = generator
        _checked_count("RandomSampler", "num_samples", self.num_samples)

    @property
    def num_samples(self) -> int:
        """How many indices one iteration gives; the data source may grow meanwhile."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        size, wanted = len(self.data_source), self.num_samples
        rng = host_rng(self.generator)
        if self.replacement:
            yield from rng.integers(size, size=wanted).tolist()
            return
        for start in range(0, wanted, size):
            yield from rng.permutation(size)[: wanted - start].tolist()

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """`indices` in random order, another one each time it is iterated."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for i in host_rng(self.generator).permutation(len(self.indices)).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Indices of `weights`, each drawn in proportion to its weight.

    weights: [N], at least 0; they need not add up to 1.
    Raises ArgumentError if no weight is positive, or, without replacement, fewer than num_samples.
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        self.num_samples = _checked_count("WeightedRandomSampler", "num_samples", num_samples)
        self.replacement = _checked_flag("WeightedRandomSampler", "replacement", replacement)
        self.weights = np.asarray(weights, dtype=np.float64)
        self.generator = generator
        self._check_weights()

    def __iter__(self) -> Iterator[int]:
        chances = self.weights / self.weights.sum()
        rng = host_rng(self.generator)
        drawn = rng.choice(len(chances), self.num_samples, replace=self.replacement, p=chances)
        yield from drawn.tolist()

    def __len__(self) -> int:
        return self.num_samples

    def _check_weights(self) -> None:
        if self.weights.ndim != 1:
            raise ArgumentError(
                f"WeightedRandomSampler: weights must have 1 axis, not {self.weights.shape}"
            )
        if not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise ArgumentError("WeightedRandomSampler: weights must be finite and at least 0")
        positive = int((self.weights > 0).sum())
        needed = 1 if self.replacement else self.num_samples
        if positive < needed:
            raise ArgumentError(
                f"WeightedRandomSampler: {positive} of {len(self.weights)} weights are positive, "
                f"{needed} are needed"
            )


class BatchSampler(Sampler["list[int]"]):
    """Lists of `batch_size` indices of `sampler`; the last may be shorter, unless `drop_last`."""

    def __init__(
        self, sampler: Sampler[int] | Iterable[int], batch_size: int, drop_last: bool
    ) -> None:
        self.sampler = sampler
        self.batch_size = _checked_count("BatchSampler", "batch_size", batch_size)
        self.drop_last = _checked_flag("BatchSampler", "drop_last", drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def __len__(self) -> int:
        samples = len(self.sampler)  # type: ignore[arg-type]  # a TypeError says if it has none
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)


class EndlessSampler(Sampler[None]):
    """None without end: the index of a sample that a stream gives when asked for the next."""

    def __iter__(self) -> Iterator[None]:
        return itertools.repeat(None)


def _checked_count(owner: str, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ArgumentError(f"{owner}: {name} must be a positive whole number, not {value!r}")
    return value


def _checked_flag(owner: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ArgumentError(f"{owner}: {name} must be True or False, not {value!r}")
    return value
