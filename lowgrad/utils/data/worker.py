"""Worker processes that load batches: what runs in them, and the pool of them in the main process.

Each worker has one pipe. The main process sends it tasks and reads its answers in the order of the
tasks, so results are in order without a table. A worker reads its pipe in a thread of its own, so
that sending it tasks cannot block while it sends a large answer; and when the pipe closes, because
the main process let go or died, however suddenly, the worker ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import random
import signal
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from lowgrad.errors import WorkerError
from lowgrad.generator import default_generator
from lowgrad.utils.data.fetch import END, Fetcher, FetchPlan

# How long a worker may take over its last sample once nobody wants it.
GRACE_SECONDS = 2.0

# Answers are (epoch, kind, payload); an epoch is one iteration over a loader.
Answer = tuple[int, str, Any]


@dataclass(frozen=True)
class WorkerInfo:
    """What `get_worker_info()` tells in a worker: which of how many, its seed and data set."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None

# The main process's ends of all pipes. A forked worker inherits and closes them: while any copy is
# open, a worker would not see that the main process is gone.
_main_ends: weakref.WeakSet[Connection] = weakref.WeakSet()


def get_worker_info() -> WorkerInfo | None:
    """Which worker this process is; None in the main process."""
    return _info


@dataclass(frozen=True)
class WorkerJob:
    """Everything a worker needs, pickled where processes are spawned."""

    info: WorkerInfo
    plan: FetchPlan
    init: Callable[[int], None] | None


# --- In the worker -----------------------------------------------------------------------------


class RemoteTracebackError(Exception):
    """The cause of an error that was raised in a worker: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def run_worker(job: WorkerJob, pipe: Connection) -> None:
    """The whole life of a worker process."""
    global _info
    for end in list(_main_ends):
        end.close()
    # Ctrl-C reaches every process of the terminal; the main one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _info = job.info
    _seed_everything(job.info.seed)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(pipe, tasks), daemon=True).start()
    # A closed pipe means that nobody waits for the answer.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _answer_tasks(job, tasks, pipe)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    default_generator.manual_seed(seed)


def _read_tasks(pipe: Connection, tasks: queue.SimpleQueue[Any]) -> None:
    """Move tasks from the pipe to the queue; when it closes, see to it that the process ends."""
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            break
        if task[1] == "begin":
            _discard(tasks)  # what an iteration asked for that nobody waits for any more
        tasks.put(task)
    _discard(tasks)
    tasks.put(None)
    time.sleep(GRACE_SECONDS)
    os._exit(1)  # the data set hangs; this thread is alone in knowing that nobody waits


def _discard(tasks: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            tasks.get_nowait()


def _answer_tasks(job: WorkerJob, tasks: queue.SimpleQueue[Any], pipe: Connection) -> None:
    fetcher: Fetcher | None = None
    broken: BaseException | None = _initialise(job)
    while (task := tasks.get()) is not None:
        epoch, kind, indices = task
        if kind == "begin":
            fetcher = None
            continue
        if broken is not None:
            _send(pipe, epoch, "error", _portable(broken, job))
            continue
        try:
            fetcher = job.plan.fetcher() if fetcher is None else fetcher
            batch = fetcher.fetch(indices)
        except Exception as error:  # it is raised again in the main process
            _send(pipe, epoch, "error", _portable(error, job))
        else:
            _send_batch(pipe, epoch, batch, job)


def _initialise(job: WorkerJob) -> BaseException | None:
    try:
        if job.init is not None:
            job.init(job.info.id)
    except Exception as error:
        return error
    return None


def _send_batch(pipe: Connection, epoch: int, batch: Any, job: WorkerJob) -> None:
    if batch is END:
        _send(pipe, epoch, "end", None)
        return
    try:
        _send(pipe, epoch, "batch", batch)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # pickling comes before the first byte is sent
        refused = WorkerError(
            f"data worker {job.info.id}: a batch cannot be sent between processes: {error}",
            fix="collate_fn should return tensors, arrays and plain Python values",
        )
        refused.__cause__ = error
        _send(pipe, epoch, "error", _portable(refused, job))


def _send(pipe: Connection, epoch: int, kind: str, payload: Any) -> None:
    pipe.send((epoch, kind, payload))


def _portable(error: BaseException, job: WorkerJob) -> tuple[BaseException, str]:
    """`error` and its traceback; a WorkerError in its place if it does not survive pickling."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        same = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        same = False
    if same:
        return error, text
    last = traceback.format_exception_only(type(error), error)[-1].strip()
    return WorkerError(f"data worker {job.info.id} (pid {os.getpid()}) raised {last}"), text


# --- In the main process -----------------------------------------------------------------------


class WorkerPool:
    """Processes that answer tasks, each in the order it was given them."""

    def __init__(self, jobs: Sequence[WorkerJob], context: Any) -> None:
        self.epoch = 0  # passes begun
        self._owner = os.getpid()
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._failure: WorkerError | None = None
        try:
            for job in jobs:
                self._start(job, context)
        except BaseException:
            self.close()
            raise

    def _start(self, job: WorkerJob, context: Any) -> None:
        ours, theirs = context.Pipe(duplex=True)
        _main_ends.add(ours)
        self._pipes.append(ours)
        process = context.Process(
            target=run_worker,
            args=(job, theirs),
            name=f"lowgrad-data-worker-{job.info.id}",
            daemon=True,
        )
        try:
            with warnings.catch_warnings():
                # From Python 3.12 on a fork beside threads warns, and NumPy's BLAS has threads:
                # they are idle here, and BLAS restarts them in the child by itself.
                warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
                process.start()
        finally:
            theirs.close()  # else the main process would keep a dead worker's pipe open
        self._processes.append(process)

    @property
    def is_open(self) -> bool:
        """Whether the workers can be given tasks."""
        return self._failure is None

    def begin(self) -> int:
        """Start over: workers forget their tasks, and iterate a stream from its beginning."""
        self.epoch += 1
        for worker in range(len(self._pipes)):
            self.send(worker, "begin", None)
        return self.epoch

    def send(self, worker: int, kind: str, indices: Any) -> None:
        """Give `worker` a task."""
        if self._failure is not None:
            raise self._failure
        # A dead worker is reported when its answer is due, with what it had been doing.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._pipes[worker].send((self.epoch, kind, indices))

    def receive(self, worker: int, doing: str, timeout: float) -> tuple[str, Any]:
        """The next answer of `worker` in this epoch: its kind and payload.

        doing: what it is doing, for the error.  timeout: seconds; 0 waits as long as it lives.
        Raises WorkerError if any worker has died, or nothing came in time.
        """
        deadline = time.monotonic() + timeout if timeout > 0 else None
        while True:
            if self._failure is not None:
                raise self._failure
            answer = self._answer(worker, doing, deadline, timeout)
            if answer[0] == self.epoch:
                return answer[1], answer[2]

    def _answer(self, worker: int, doing: str, deadline: float | None, timeout: float) -> Answer:
        pipe = self._pipes[worker]
        sentinels = {p.sentinel: i for i, p in enumerate(self._processes)}
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = wait([pipe, *sentinels], left)
        if pipe in ready:
            with contextlib.suppress(EOFError, ConnectionResetError):
                answer: Answer = pipe.recv()
                return answer
            raise self._fail(self._death(worker, doing))
        if not ready:
            raise self._fail(
                WorkerError(
                    f"data worker {worker} gave no batch within {timeout:g} s while {doing}",
                    fix="a larger timeout=, or num_workers=0 to see what the data set does",
                )
            )
        dead = min(sentinels[s] for s in ready if isinstance(s, int))
        raise self._fail(self._death(dead, doing if dead == worker else "loading ahead"))

    def _death(self, worker: int, doing: str) -> WorkerError:
        process = self._processes[worker]
        process.join(GRACE_SECONDS)
        code = process.exitcode
        how = f"exited with code {code}"
        fix = "num_workers=0 runs the same code in the main process"
        if code is not None and code < 0:
            how = f"was killed by signal {-code}"
            if -code == signal.SIGKILL:
                fix = "signal 9 often means out of memory: fewer workers, or smaller batches"
        return WorkerError(f"data worker {worker} (pid {process.pid}) {how} while {doing}", fix=fix)

    def _fail(self, error: WorkerError) -> WorkerError:
        self._failure = error
        self.close()
        return error

    def close(self) -> None:
        """End the workers: let them finish their sample, then stop them."""
        if os.getpid() != self._owner:
            return  # a forked child holds a copy of this object, not these processes
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for stop in ("terminate", "kill"):
            for process in self._processes:
                if process.is_alive():
                    getattr(process, stop)()
                    process.join(GRACE_SECONDS)
        if self._failure is None:
            self._failure = WorkerError("the data workers were shut down", at="")


def make_context(context: Any) -> Any:
    """A multiprocessing context from its name, itself, or None for the platform's default."""
    if context is None or isinstance(context, str):
        return multiprocessing.get_context(context)
    return context


def raise_remote(payload: tuple[BaseException, str]) -> None:
    """Raise a worker's error here, its traceback there as the cause."""
    error, text = payload
    raise error from RemoteTracebackError(text)
