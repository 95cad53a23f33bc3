"""DataLoader: batches from a data set, in this process or loaded ahead by others."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from lowgrad.errors import ArgumentError
from lowgrad.generator import Generator
from lowgrad.utils.data.collate import default_collate, default_convert
from lowgrad.utils.data.dataset import Dataset, IterableDataset
from lowgrad.utils.data.fetch import END, FetchPlan
from lowgrad.utils.data.sampler import (
    BatchSampler,
    EndlessSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    host_rng,
)
from lowgrad.utils.data.worker import (
    WorkerInfo,
    WorkerJob,
    WorkerPool,
    make_context,
    raise_remote,
)

T_co = TypeVar("T_co", covariant=True)

_FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")


class DataLoader(Generic[T_co]):
    """Iterable over batches; each `iter` is a new pass, in a new order if shuffled.

    batch_size: samples a batch; None gives single samples, not collated.
    shuffle, sampler, batch_sampler: which indices; at most one, a batch_sampler giving lists.
    num_workers: processes that load ahead, `prefetch_factor` batches each (2 if not given); the
        batches and their order are the same for any number.  0 loads in this process.
    drop_last: leave out a last batch that is not full.
    timeout: seconds to wait for a worker's batch; 0 waits as long as the worker lives.
    worker_init_fn: called in each worker with its number, after seeding.
    multiprocessing_context: "fork", "spawn", "forkserver" or a context, for num_workers > 0.
    generator: where shuffling and the workers' seeds come from.
    persistent_workers: keep the processes from one pass to the next.
    pin_memory: accepted; without a device to copy to it changes nothing.

    Raises ArgumentError for values that are not allowed or exclude each other, WorkerError when a
    worker dies. What a data set raises is raised here too, from a worker as well.
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        if multiprocessing_context is not None and num_workers == 0:
            raise _wrong("multiprocessing_context needs num_workers > 0")
        is_stream = isinstance(dataset, IterableDataset)
        if is_stream:
            _check_stream(shuffle, sampler, batch_sampler)
        _check_sampling(batch_size, shuffle, sampler, batch_sampler, drop_last)

        if batch_sampler is not None:
            batch_size = None
        if sampler is None:
            sampler = _default_sampler(dataset, bool(shuffle), generator)
        if batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate

        self.dataset = dataset
        self.batch_size = batch_size
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.collate_fn = collate_fn
        self.pin_memory = pin_memory
        self.drop_last = drop_last
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.generator = generator
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.persistent_workers = persistent_workers
        self._kept: WorkerPool | None = None
        self._complete = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and self.__dict__.get("_complete", False):
            raise _wrong(f"{name} cannot be set after construction", fix="make a new DataLoader")
        super().__setattr__(name, value)

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            return _LocalIterator(self)
        if not self.persistent_workers:
            pool = _start_pool(self)
            iterator = _WorkerIterator(self, pool)
            # Also runs at exit. The pool knows nothing of the iterator, so it can be collected.
            weakref.finalize(iterator, pool.close)
            return iterator
        if self._kept is None or not self._kept.is_open:
            self._kept = _start_pool(self)
            weakref.finalize(self, self._kept.close)
        else:
            _draw_seed(self)
        return _WorkerIterator(self, self._kept)

    def __len__(self) -> int:
        """Batches a pass. Raises TypeError if the sampler or the stream has no length."""
        if not isinstance(self.dataset, IterableDataset):
            return len(self.index_sampler)
        samples = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return samples
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    @property
    def index_sampler(self) -> Any:
        """What gives the indices of one fetch: lists for batches, else single ones."""
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    @property
    def fetch_plan(self) -> FetchPlan:
        """How each process makes a batch."""
        batches = self.batch_sampler is not None
        return FetchPlan(self.dataset, batches, self.collate_fn, self.drop_last)


class _LocalIterator:
    """One pass, loaded in this process when asked for."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        _draw_seed(loader)  # so that the shuffles do not depend on num_workers
        self._loader = loader
        self._indices = iter(loader.index_sampler)
        self._fetcher = loader.fetch_plan.fetcher()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        batch = self._fetcher.fetch(next(self._indices))
        if batch is END:
            raise StopIteration
        return batch


class _WorkerIterator:
    """One pass, loaded ahead by worker processes and handed out in order."""

    def __init__(self, loader: DataLoader[Any], pool: WorkerPool) -> None:
        self._loader = loader
        self._pool = pool
        self._epoch = pool.begin()
        self._indices = iter(loader.index_sampler)
        self._active = deque(range(loader.num_workers))
        self._due: deque[tuple[int, int]] = deque()  # (worker, batch number), oldest first
        self._sent = 0
        for _ in range(max(1, loader.prefetch_factor or 0) * loader.num_workers):
            self._send_next()

    def _send_next(self) -> None:
        """Give the next indices to the next worker that has more to give."""
        if not self._active:
            return
        try:
            indices = next(self._indices)
        except StopIteration:
            return
        worker = self._active[0]
        self._active.rotate(-1)
        self._pool.send(worker, "fetch", indices)
        self._due.append((worker, self._sent))
        self._sent += 1

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        if self._epoch != self._pool.epoch:
            raise _wrong("this pass was ended by a newer one over the same persistent workers")
        while self._due:
            worker, number = self._due[0]
            kind, payload = self._pool.receive(
                worker, f"loading batch {number}", self._loader.timeout
            )
            self._due.popleft()
            if kind == "end" and worker in self._active:
                self._active.remove(worker)
            self._send_next()
            if kind == "error":
                raise_remote(payload)
            if kind == "batch":
                return payload
        if not self._loader.persistent_workers:
            self._pool.close()
        raise StopIteration


def _start_pool(loader: DataLoader[Any]) -> WorkerPool:
    seed = _draw_seed(loader)
    count = loader.num_workers
    infos = [WorkerInfo(i, count, seed + i, loader.dataset) for i in range(count)]
    jobs = [WorkerJob(info, loader.fetch_plan, loader.worker_init_fn) for info in infos]
    return WorkerPool(jobs, make_context(loader.multiprocessing_context))


def _draw_seed(loader: DataLoader[Any]) -> int:
    """The first worker's seed; below 2^62, so that adding worker numbers stays a 64-bit integer."""
    return int(host_rng(loader.generator).integers(2**62))


def _default_sampler(dataset: Any, shuffle: bool, generator: Generator | None) -> Sampler[Any]:
    if isinstance(dataset, IterableDataset):
        # Each worker has the whole stream, so only the stream's end says where it ends.
        return EndlessSampler()
    return RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)


def _check_workers(
    num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool
) -> None:
    if not isinstance(num_workers, int) or num_workers < 0:
        raise _wrong(f"num_workers must be a whole number, at least 0, not {num_workers!r}")
    if timeout < 0:
        raise _wrong(f"timeout must be at least 0 seconds, not {timeout!r}")
    if prefetch_factor is not None and num_workers == 0:
        raise _wrong("prefetch_factor needs num_workers > 0")
    if prefetch_factor is not None and prefetch_factor < 0:
        raise _wrong(f"prefetch_factor must be at least 0, not {prefetch_factor!r}")
    if persistent_workers and num_workers == 0:
        raise _wrong("persistent_workers needs num_workers > 0")


def _check_stream(shuffle: object, sampler: object, batch_sampler: object) -> None:
    given = {"shuffle": shuffle or None, "sampler": sampler, "batch_sampler": batch_sampler}
    for name, value in given.items():
        if value is not None:
            raise _wrong(f"an IterableDataset gives its own order, so {name} must not be given")


def _check_sampling(
    batch_size: int | None,
    shuffle: bool | None,
    sampler: object,
    batch_sampler: object,
    drop_last: bool,
) -> None:
    if sampler is not None and shuffle:
        raise _wrong("sampler and shuffle exclude each other")
    if batch_sampler is not None:
        if batch_size != 1 or shuffle or sampler is not None or drop_last:
            raise _wrong("batch_sampler excludes batch_size, shuffle, sampler and drop_last")
    elif batch_size is None and drop_last:
        raise _wrong("batch_size=None gives single samples, so there is no last batch to drop")


def _wrong(what: str, fix: str | None = None) -> ArgumentError:
    return ArgumentError(f"DataLoader: {what}", fix=fix)
