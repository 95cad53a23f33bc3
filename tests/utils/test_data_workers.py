"""Loading with worker processes: the same batches, and nothing hangs when something dies."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lowgrad
from lowgrad.errors import ArgumentError, WorkerError
from lowgrad.utils import data

ROOT = Path(lowgrad.__file__).parents[1]


class Squares(data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return i * i


class Faulty(Squares):
    """Does `what` at sample 9."""

    def __init__(self, what):
        self.what = what

    def __getitem__(self, i):
        if i == 9:
            self.what()
        return i


class Shares(data.IterableDataset):
    """0 .. n - 1, shared out between the workers."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        info = data.get_worker_info()
        return iter(range(self.n) if info is None else range(info.id, self.n, info.num_workers))


class Seeds(Squares):
    def __getitem__(self, i):
        return (
            data.get_worker_info().seed,
            random.random(),
            float(np.random.rand()),
            float(lowgrad.rand(1)),
        )


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def fail():
    raise KeyError("nine")


def fail_unpicklably():
    raise Unpicklable(1, 2)


def hang():
    time.sleep(60)


def batches(loader):
    return [b.tolist() for b in loader]


def processes(iterator):
    return iterator._pool._processes


def assert_gone(workers, seconds=6.0):
    deadline = time.monotonic() + seconds
    while any(p.is_alive() for p in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(p.is_alive() for p in workers)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_any_number_of_workers_gives_the_same_batches(workers, prefetch):
    def run(**options):
        lowgrad.manual_seed(0)
        loader = data.DataLoader(Squares(), batch_size=3, shuffle=True, **options)
        return [batches(loader) for _ in range(2)]

    assert run(num_workers=workers, prefetch_factor=prefetch) == run()


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
@pytest.mark.slow
def test_other_ways_to_start_processes(context):
    loader = data.DataLoader(Squares(), 4, num_workers=1, multiprocessing_context=context)

    assert batches(loader) == batches(data.DataLoader(Squares(), 4))


def test_tasks_and_batches_larger_than_a_pipe_do_not_block():
    many = [0] * 300_000
    loader = data.DataLoader(
        Squares(), batch_sampler=[many] * 4, num_workers=1, collate_fn=lambda b: np.zeros(len(b))
    )

    assert [b.size for b in loader] == [len(many)] * 4


@pytest.mark.parametrize("n", [0, 1, 2, 7, 20])
def test_workers_share_a_stream(n):
    loader = data.DataLoader(Shares(n), batch_size=2, num_workers=3)

    got = [x for batch in loader for x in batch.tolist()]

    assert sorted(got) == list(range(n))


def test_workers_without_shares_repeat_a_stream():
    class Whole(Shares):
        def __iter__(self):
            return iter(range(self.n))

    assert batches(data.DataLoader(Whole(3), 2, num_workers=2)) == [[0, 1], [0, 1], [2], [2]]


def test_each_worker_has_its_own_seed():
    def samples():
        lowgrad.manual_seed(1)
        loader = data.DataLoader(Seeds(), None, sampler=range(4), num_workers=2)
        return list(loader)

    first = samples()

    assert first[1][0] == first[0][0] + 1
    assert len({s[1:] if isinstance(s, tuple) else tuple(s[1:]) for s in first}) == 4
    assert first == samples()


def test_worker_info_is_none_in_the_main_process():
    assert data.get_worker_info() is None


def test_worker_init_fn_is_called_with_the_number(tmp_path):
    def mark(i):
        (tmp_path / str(i)).touch()

    list(data.DataLoader(Squares(), num_workers=2, worker_init_fn=mark))

    assert {p.name for p in tmp_path.iterdir()} == {"0", "1"}


def test_an_error_keeps_its_type_and_the_pass_goes_on():
    iterator = iter(data.DataLoader(Faulty(fail), 4, num_workers=2))
    got = [next(iterator).tolist() for _ in range(2)]

    with pytest.raises(KeyError, match="nine") as caught:
        next(iterator)

    assert "in fail" in str(caught.value.__cause__)
    assert got == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [b.tolist()[0] for b in iterator] == [12, 16]


def test_an_error_that_cannot_be_passed_on_is_a_worker_error():
    with pytest.raises(WorkerError, match=r"raised .*Unpicklable: 1"):
        list(data.DataLoader(Faulty(fail_unpicklably), 4, num_workers=1))


def test_a_batch_that_cannot_be_passed_on_says_so():
    loader = data.DataLoader(Squares(), num_workers=1, collate_fn=lambda b: lambda: b)

    with pytest.raises(WorkerError, match="a batch cannot be sent between"):
        next(iter(loader))


def test_an_error_in_worker_init_fn_is_raised():
    def init(i):
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        next(iter(data.DataLoader(Squares(), num_workers=1, worker_init_fn=init)))


@pytest.mark.parametrize(
    ("what", "message"), [(die, "was killed by signal 9"), (leave, "exited with code 3")]
)
def test_a_dead_worker_is_an_error_within_seconds(what, message):
    start = time.monotonic()
    iterator = iter(data.DataLoader(Faulty(what), 4, num_workers=2))
    workers = processes(iterator)

    with pytest.raises(WorkerError, match=rf"data worker 0 \(pid \d+\) {message} while"):
        list(iterator)

    assert time.monotonic() - start < 10
    assert_gone(workers)
    with pytest.raises(WorkerError):  # it does not look like the end of the data afterwards
        next(iterator)


def test_a_worker_that_hangs_is_an_error_after_the_timeout():
    iterator = iter(data.DataLoader(Faulty(hang), 4, num_workers=2, timeout=0.5))
    workers = processes(iterator)

    with pytest.raises(WorkerError, match=r"gave no batch within 0\.5 s while loading batch 2"):
        list(iterator)

    assert_gone(workers)


def test_workers_end_when_the_pass_ends_or_is_dropped():
    loader = data.DataLoader(Squares(), num_workers=2)
    done, dropped = iter(loader), iter(loader)
    workers = processes(done) + processes(dropped)

    list(done)
    next(dropped)
    del dropped

    assert_gone(workers)


def test_persistent_workers_are_kept_and_start_over():
    loader = data.DataLoader(Squares(), 4, shuffle=True, num_workers=2, persistent_workers=True)
    first = iter(loader)
    workers = processes(first)
    next(first)

    passes = [batches(loader) for _ in range(2)]

    assert processes(iter(loader)) == workers
    assert all(p.is_alive() for p in workers)
    with pytest.raises(ArgumentError, match="ended by a newer one"):
        next(first)
    assert [sorted(x for b in p for x in b) for p in passes] == [[i * i for i in range(20)]] * 2
    assert passes[0] != passes[1]
    del first, loader
    assert_gone(workers)


def test_persistent_workers_iterate_a_stream_anew():
    loader = data.DataLoader(Shares(6), 2, num_workers=2, persistent_workers=True)

    assert batches(loader) == batches(loader) == [[0, 2], [1, 3], [4], [5]]


def test_a_new_pass_drops_what_the_last_one_had_asked_for(tmp_path):
    class Logged(Squares):
        def __getitem__(self, i):
            time.sleep(0.02)
            with (tmp_path / "log").open("a") as log:
                log.write("x")
            return i

    loader = data.DataLoader(
        Logged(), None, num_workers=1, prefetch_factor=20, persistent_workers=True
    )
    next(iter(loader))

    assert list(loader) == list(range(20))
    assert 20 < len((tmp_path / "log").read_text()) < 30


PROGRAM = """
import os, signal, sys, time
from lowgrad.utils import data

class Slow(data.Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, i):
        time.sleep({seconds})
        return i

first = iter(data.DataLoader(Slow(), num_workers=2))
second = iter(data.DataLoader(Slow(), num_workers=1))
print(*[p.pid for it in (first, second) for p in it._pool._processes], flush=True)
{then}
"""


def run_program(seconds, then):
    """A program with three workers that sleep for each sample; (its exit status, their pids)."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(seconds=seconds, then=then)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, [int(pid) for pid in done.stdout.split()]


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may be there to collect it


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lacks /proc")
@pytest.mark.parametrize("seconds", [0.01, 60])
@pytest.mark.parametrize(
    ("then", "status"),
    [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("sys.exit(0)", 0), ("1 / 0", 1)],
)
def test_workers_do_not_outlive_their_program(seconds, then, status):
    done, pids = run_program(seconds, then)

    assert done.returncode == status, done.stderr
    assert len(pids) == 3
    deadline = time.monotonic() + 8
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lacks /proc")
def test_ctrl_c_shows_the_users_line_and_nothing_of_the_workers():
    # Tests that were started in the background inherit that Ctrl-C is ignored.
    interrupt = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    interrupt += "[os.kill(int(p.pid), signal.SIGINT) for p in first._pool._processes]\n"
    done, _ = run_program(60, interrupt + "os.kill(os.getpid(), signal.SIGINT)\nnext(first)")

    assert done.returncode == -signal.SIGINT
    assert done.stderr.count("Traceback") == 1
