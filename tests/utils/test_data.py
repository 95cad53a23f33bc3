"""Data sets, samplers, collating and loading in this process, against PyTorch's behaviour."""

import copy
from collections import Counter, namedtuple

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data

import lowgrad
from lowgrad.errors import ArgumentError, DTypeError, IndexOutOfRange, ShapeError
from lowgrad.utils import data

X = np.arange(30, dtype=np.float32).reshape(10, 3)
Y = np.arange(10)
Point = namedtuple("Point", ["x", "y"])


class Squares(data.Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        if not 0 <= i < 10:
            raise IndexError(i)
        return i * i


class Stream(data.IterableDataset):
    def __init__(self, n=10):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


class SizedStream(Stream):
    def __len__(self):
        return self.n


class TorchStream(torch_data.IterableDataset):
    def __iter__(self):
        return iter(range(10))

    def __len__(self):
        return 10


def pairs():
    return data.TensorDataset(lowgrad.from_numpy(X), lowgrad.from_numpy(Y))


def torch_pairs():
    return torch_data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


def plain(value):
    """`value` with tensors as (dtype, nested lists): lowgrad's and torch's compare equal."""
    if isinstance(value, (lowgrad.Tensor, torch.Tensor)):
        return (str(value.dtype).rpartition(".")[2], value.tolist())
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(part) for part in value]
    return value


def seeded(seed=0):
    return lowgrad.Generator().manual_seed(seed)


# --- Data sets ---------------------------------------------------------------------------------


def test_tensor_dataset_gives_rows():
    ours, theirs = pairs(), torch_pairs()

    assert len(ours) == len(theirs)
    assert plain(ours[3]) == plain(theirs[3])
    assert plain(ours[-1]) == plain(theirs[-1])
    with pytest.raises(IndexError):
        ours[10]


def test_tensor_dataset_needs_one_first_size():
    with pytest.raises(ShapeError, match=r"tensor 1  \(3,\)"):
        data.TensorDataset(lowgrad.zeros(2), lowgrad.zeros(3))
    with pytest.raises(ShapeError):
        data.TensorDataset(lowgrad.tensor(1.0))
    with pytest.raises(ArgumentError):
        data.TensorDataset()


def test_concat_dataset_gives_one_after_the_other():
    both = Squares() + data.Subset(Squares(), [3, 2])

    assert isinstance(both, data.ConcatDataset)
    assert len(both) == 12
    assert [both[i] for i in (0, 9, 10, 11, -1, -12)] == [0, 81, 9, 4, 4, 0]
    assert both.cumulative_sizes == [10, 12]
    for index in (12, -13):
        with pytest.raises(IndexOutOfRange, match="12 samples"):
            both[index]


def test_concat_dataset_refuses_streams_and_nothing():
    with pytest.raises(ArgumentError, match="data set 1 is an IterableDataset"):
        data.ConcatDataset([Squares(), Stream()])
    with pytest.raises(ArgumentError, match="at least one"):
        data.ConcatDataset([])


def test_subset_of_a_subset():
    inner = data.Subset(Squares(), [5, 6, 7, 8])

    outer = data.Subset(inner, [3, 0])

    assert list(outer) == [64, 25]
    assert outer.__getitems__([1, 0]) == [25, 64]


def test_subset_subclass_may_change_samples():
    class Negated(data.Subset):
        def __getitem__(self, i):
            return -super().__getitem__(i)

    (batch,) = data.DataLoader(Negated(Squares(), [1, 2]), batch_size=2)

    assert batch.tolist() == [-1, -4]


@pytest.mark.parametrize(
    "lengths", [[7, 3], [0.7, 0.3], [0.3, 0.3, 0.4], [0.55, 0.45], [10], [1.0]]
)
def test_random_split_has_pytorchs_lengths_and_every_sample_once(lengths):
    ours = data.random_split(Squares(), lengths, generator=seeded())
    theirs = torch_data.random_split(range(10), lengths)

    assert [len(s) for s in ours] == [len(s) for s in theirs]
    assert sorted(i for s in ours for i in s.indices) == list(range(10))


def test_random_split_is_fixed_by_its_generator():
    def indices(seed):
        return [s.indices for s in data.random_split(Squares(), [5, 5], seeded(seed))]

    assert indices(1) == indices(1)
    assert indices(1) != indices(2)


@pytest.mark.parametrize("lengths", [[7, 4], [1, 1], [-1, 11], [1.5, -0.5], [0.2, 0.2], []])
def test_random_split_refuses_lengths_that_do_not_add_up(lengths):
    with pytest.raises(ArgumentError):
        data.random_split(Squares(), lengths)


def test_random_split_warns_of_an_empty_split():
    with pytest.warns(UserWarning, match="split 1 of 10 samples is empty"):
        data.random_split(Squares(), [0.99, 0.01])


# --- Samplers ----------------------------------------------------------------------------------


def test_random_sampler_visits_each_once_in_a_new_order():
    sampler = data.RandomSampler(range(50), generator=seeded())

    first, second = list(sampler), list(sampler)

    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == list(data.RandomSampler(range(50), generator=seeded()))
    assert len(sampler) == 50


def test_random_sampler_num_samples_wraps_to_another_shuffle():
    drawn = list(data.RandomSampler(range(4), num_samples=10, generator=seeded()))

    assert len(drawn) == 10
    assert sorted(drawn[:4]) == sorted(drawn[4:8]) == [0, 1, 2, 3]
    assert len(set(drawn[8:])) == 2


def test_random_sampler_with_replacement_draws_evenly():
    drawn = list(data.RandomSampler(range(4), True, 4000, seeded()))

    assert all(abs(count - 1000) < 150 for count in Counter(drawn).values())  # 5 sigma


def test_manual_seed_fixes_the_default_order():
    def order():
        lowgrad.manual_seed(3)
        return list(data.RandomSampler(range(20)))

    assert order() == order()


def test_subset_random_sampler_permutes_its_indices():
    sampler = data.SubsetRandomSampler([5, 7, 9, 11], seeded())

    assert sorted(sampler) == [5, 7, 9, 11]
    assert len(sampler) == 4


def test_weighted_sampler_draws_by_weight():
    drawn = Counter(data.WeightedRandomSampler([0, 1, 3], 4000, generator=seeded()))

    assert drawn[0] == 0
    assert abs(drawn[2] - 3000) < 140  # 5 sigma


def test_weighted_sampler_without_replacement_repeats_nothing():
    sampler = data.WeightedRandomSampler([0.9, 0.4, 0.05, 0.2, 0.3, 0.1], 5, False, seeded())

    drawn = list(sampler)

    assert len(set(drawn)) == len(drawn) == len(sampler) == 5


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_batch_sampler_agrees_with_pytorch(last, size):
    ours = data.BatchSampler(data.SequentialSampler(range(10)), size, last)
    theirs = torch_data.BatchSampler(torch_data.SequentialSampler(range(10)), size, last)

    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda d, n: d.RandomSampler(n),
        lambda d, n: d.RandomSampler(range(3), num_samples=0),
        lambda d, n: d.RandomSampler(range(3), num_samples=1.5),
        lambda d, n: d.WeightedRandomSampler([1.0], 0),
        lambda d, n: d.WeightedRandomSampler([1.0], True),
        lambda d, n: d.WeightedRandomSampler([[1.0]], 1),
        lambda d, n: d.WeightedRandomSampler([1.0], 1, replacement=1),
        lambda d, n: list(d.WeightedRandomSampler([-1.0, 2.0], 1)),
        lambda d, n: list(d.WeightedRandomSampler([0.0, 0.0], 1)),
        lambda d, n: list(d.WeightedRandomSampler([1.0, 1.0], 3, replacement=False)),
        lambda d, n: d.BatchSampler(range(3), 0, False),
        lambda d, n: d.BatchSampler(range(3), True, False),
        lambda d, n: d.BatchSampler(range(3), 2, 0),
    ],
)
def test_samplers_refuse_what_pytorch_refuses(make):
    with pytest.raises((ValueError, RuntimeError)):
        make(torch_data, [])
    with pytest.raises(ArgumentError):
        make(data, [])


# --- Collating ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2, 3],
        [True, False],
        [1.5, 2.5],
        ["a", "b"],
        [b"a", b"b"],
        [np.float32(1), np.float32(2)],
        [np.float64(1), np.float64(2)],
        [np.int64(1), np.int64(2)],
        [np.bool_(True), np.bool_(False)],
        [np.ones(2, np.float32), np.zeros(2, np.float32)],
        [np.array(1.0), np.array(2.0)],
        [(1, 2.0), (3, 4.0)],
        [[1, 2], [3, 4]],
        [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
        [Point(1, 2.0), Point(3, 4.0)],
        [{"a": (1, [2, 3])}, {"a": (4, [5, 6])}],
        [(), ()],
    ],
    ids=repr,
)
def test_default_collate_gives_what_pytorch_gives(batch):
    ours = data.default_collate(copy.deepcopy(batch))

    assert plain(ours) == plain(torch_data.default_collate(batch))


def test_default_collate_stacks_tensors():
    batch = data.default_collate([lowgrad.tensor([1.0, 2.0]), lowgrad.tensor([3.0, 4.0])])

    assert plain(batch) == ("float32", [[1.0, 2.0], [3.0, 4.0]])


def test_default_collate_keeps_gradients():
    x = lowgrad.tensor([1.0, 2.0], requires_grad=True)

    data.default_collate([x, x * 3]).sum().backward()

    assert x.grad.tolist() == [4.0, 4.0]


def test_default_collate_copies_arrays():
    array = np.zeros(3, np.float32)
    batch = data.default_collate([array])

    array[:] = 1

    assert batch.tolist() == [[0.0, 0.0, 0.0]]


def test_default_collate_keeps_a_mapping_type():
    class Named(dict):
        name = "n"

    first = Named(a=1)
    first.name = "kept"

    batch = data.default_collate([first, Named(a=2)])

    assert type(batch) is Named
    assert batch.name == "kept"
    assert first["a"] == 1


def test_default_collate_refuses_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"sample 1  \(3,\)"):
        data.default_collate([np.zeros(2), np.zeros(3)])
    with pytest.raises(ShapeError, match="sample 1 has 3"):
        data.default_collate([[1, 2], [1, 2, 3]])
    with pytest.raises(DTypeError, match="not object"):
        data.default_collate([object()])
    with pytest.raises(DTypeError, match="arrays of <U1"):
        data.default_collate([np.array(["a"])])
    with pytest.raises(DTypeError, match="complex128"):
        data.default_collate([np.zeros(2, complex)])


@pytest.mark.parametrize(
    "sample",
    [0, "a", np.array([0, 1]), Point(0, np.array(0.5)), [np.array([0]), "b"], {"a": np.ones(1)}],
    ids=repr,
)
def test_default_convert_gives_what_pytorch_gives(sample):
    ours = data.default_convert(copy.deepcopy(sample))

    assert plain(ours) == plain(torch_data.default_convert(sample))


# --- Loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"batch_size": 4, "drop_last": True}])
def test_loader_gives_pytorchs_batches(options):
    ours = data.DataLoader(pairs(), **options)
    theirs = torch_data.DataLoader(torch_pairs(), **options)

    assert [plain(b) for b in ours] == [plain(b) for b in theirs]
    assert len(ours) == len(theirs) == len(iter(ours))


@pytest.mark.parametrize("size", [None, 1, 4])
@pytest.mark.parametrize("last", [True, False])
def test_loader_over_a_stream_gives_pytorchs_batches(size, last):
    if size is None and last:
        pytest.skip("lacks meaning: single samples have no last batch")
    ours = data.DataLoader(SizedStream(), batch_size=size, drop_last=last)
    theirs = torch_data.DataLoader(TorchStream(), batch_size=size, drop_last=last)

    assert [plain(b) for b in ours] == [plain(b) for b in theirs]
    assert len(ours) == len(theirs)


def test_loader_over_a_stream_without_length_has_none():
    with pytest.raises(TypeError):
        len(data.DataLoader(Stream()))


def test_loader_reshuffles_each_pass_and_repeats_with_the_seed():
    def passes():
        loader = data.DataLoader(Squares(), batch_size=10, shuffle=True, generator=seeded())
        return [next(iter(loader)).tolist() for _ in range(3)]

    first = passes()

    assert len({tuple(p) for p in first}) == 3
    assert first == passes()


def test_batch_size_none_gives_converted_samples():
    loader = data.DataLoader(Squares(), batch_size=None)

    assert list(loader) == [i * i for i in range(10)]
    assert len(loader) == 10


def test_samplers_may_be_any_iterable():
    assert [b.tolist() for b in data.DataLoader(Squares(), 2, sampler=[3, 1, 2])] == [[9, 1], [4]]
    assert [b.tolist() for b in data.DataLoader(Squares(), batch_sampler=[[3], [1, 2]])] == [
        [9],
        [1, 4],
    ]


def test_collate_fn_gets_the_list_of_samples():
    seen = []
    loader = data.DataLoader(pairs(), batch_size=3, collate_fn=seen.append)

    next(iter(loader))

    assert type(seen[0]) is list
    assert plain(seen[0][1]) == plain(torch_pairs()[1])


def test_getitems_loads_a_batch_at_once():
    class Batched(Squares):
        def __getitems__(self, indices):
            return [-i for i in indices]

    assert next(iter(data.DataLoader(Batched(), 5))).tolist() == [0, -1, -2, -3, -4]


def test_plain_tensor_dataset_gathers_once_a_tensor(monkeypatch):
    def refuse(self, index):
        raise AssertionError("one sample at a time")

    (subset,) = data.random_split(pairs(), [10], seeded())
    want = [plain(b) for b in data.DataLoader(subset, 4, collate_fn=data.default_collate)]

    for dataset in (data.TensorDataset, data.Subset):
        monkeypatch.setattr(dataset, "__getitem__", refuse)

    assert [plain(b) for b in data.DataLoader(subset, 4)] == want


def test_tensor_dataset_subclass_may_transform_samples():
    class Doubled(data.TensorDataset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return 2 * x, y

    (x, _), *_ = data.DataLoader(Doubled(*pairs().tensors), batch_size=2)

    assert x.tolist() == (2 * X[:2]).tolist()


def test_stop_iteration_in_a_data_set_does_not_end_the_pass():
    class Faulty(Squares):
        def __getitem__(self, i):
            return next(iter([]))

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(data.DataLoader(Faulty()))


def test_what_decides_the_batches_is_fixed():
    loader = data.DataLoader(Squares())

    with pytest.raises(ArgumentError, match="batch_size cannot be set"):
        loader.batch_size = 2
    loader.collate_fn = list
    assert next(iter(loader)) == [0]


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": -1},
        {"timeout": -1},
        {"prefetch_factor": 2},
        {"prefetch_factor": -1, "num_workers": 1},
        {"persistent_workers": True},
        {"multiprocessing_context": "fork"},
        {"batch_size": 0},
        {"batch_size": 2.0},
        {"shuffle": True, "sampler": [1]},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"batch_sampler": [[1]], "shuffle": True},
        {"batch_sampler": [[1]], "sampler": [1]},
        {"batch_sampler": [[1]], "drop_last": True},
        {"batch_size": None, "drop_last": True},
    ],
    ids=repr,
)
def test_loader_refuses_what_pytorch_refuses(options):
    with pytest.raises(ValueError):  # noqa: PT011 - torch's wording is its own
        torch_data.DataLoader(torch_pairs(), **options)
    with pytest.raises(ArgumentError):
        data.DataLoader(pairs(), **options)


@pytest.mark.parametrize(
    "options", [{"shuffle": True}, {"sampler": [1]}, {"batch_sampler": [[1]]}], ids=repr
)
def test_a_stream_has_its_own_order(options):
    with pytest.raises(ValueError):  # noqa: PT011 - torch's wording is its own
        torch_data.DataLoader(TorchStream(), **options)
    with pytest.raises(ArgumentError, match="gives its own order"):
        data.DataLoader(Stream(), **options)


def test_shuffling_no_samples_is_refused_and_visiting_them_is_not():
    with pytest.raises(ArgumentError, match="num_samples"):
        data.DataLoader([], shuffle=True)

    assert list(data.DataLoader([])) == []
