"""Fetching: one batch, or one sample, from a data set. The same code in every process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lowgrad.utils.data.collate import default_collate
from lowgrad.utils.data.dataset import IterableDataset, fetch_samples, gather_rows

# A stream's answer when it has no more. It never leaves the process it was made in.
END = object()


@dataclass(frozen=True)
class FetchPlan:
    """How batches are made. `batches` is False for a loader with batch_size=None."""

    dataset: Any
    batches: bool
    collate_fn: Callable[[Any], Any]
    drop_last: bool

    def fetcher(self) -> Fetcher:
        """A fetcher at the data set's beginning."""
        kind = StreamFetcher if isinstance(self.dataset, IterableDataset) else MapFetcher
        return kind(self)


class Fetcher:
    """`fetch(indices)` is the batch of the samples at `indices`, or the sample at one index."""

    def __init__(self, plan: FetchPlan) -> None:
        self.plan = plan

    def fetch(self, indices: Any) -> Any:
        """The batch, or END."""
        raise NotImplementedError


class MapFetcher(Fetcher):
    """From a data set that is indexed."""

    def fetch(self, indices: Any) -> Any:
        plan = self.plan
        if plan.batches and plan.collate_fn is default_collate:
            rows = gather_rows(plan.dataset, indices)
            if rows is not None:
                return rows
        try:
            found = (fetch_samples if plan.batches else _sample)(plan.dataset, indices)
        except StopIteration as error:
            # Else the loop over the loader would take it for the end and say nothing.
            raise RuntimeError(f"the data set raised StopIteration for {indices}") from error
        return plan.collate_fn(found)


class StreamFetcher(Fetcher):
    """From a data set that is iterated: `indices` only say how many samples."""

    def __init__(self, plan: FetchPlan) -> None:
        super().__init__(plan)
        self._samples: Iterator[Any] = iter(plan.dataset)

    def fetch(self, indices: Any) -> Any:
        plan = self.plan
        if not plan.batches:
            sample = next(self._samples, END)
            return END if sample is END else plan.collate_fn(sample)
        samples = list(itertools.islice(self._samples, len(indices)))
        if not samples or (plan.drop_last and len(samples) < len(indices)):
            return END
        return plan.collate_fn(samples)


def _sample(dataset: Any, index: Any) -> Any:
    return dataset[index]
