import numpy as np
import pytest
from mirror import DTYPES, assert_mirrored, values

import lowgrad

CODES = [
    "torch.tensor(3)",
    "torch.tensor(2.5)",
    "torch.tensor(True)",
    "torch.tensor([1, 2, 3])",
    "torch.tensor([])",
    "torch.tensor([[1.0, 2], [3, 4]])",
    "torch.tensor([1, 2.5])",
    "torch.tensor([True, False])",
    "torch.tensor([True, 2])",
    "torch.tensor((1, 2), dtype=torch.float64)",
    "torch.tensor([1.7, -1.7], dtype=torch.int32)",
    "torch.tensor([[], []])",
    "torch.tensor(np.arange(3))",
    "torch.tensor(np.float64(2))",
    "torch.tensor([np.float32(1), 2])",
    "torch.tensor(x)",
    "torch.tensor(range(3))",
    "torch.tensor([torch.tensor(1.0), torch.tensor(2.0)])",
    "torch.tensor([x[0, 0], x[0, 1]])",
    "torch.tensor([[1, 2], [3]])",
    "torch.tensor('a')",
    "torch.tensor(300, dtype=torch.uint8)",
    "torch.tensor([-1], dtype=torch.bool)",
    "torch.as_tensor([1, 2])",
    "torch.as_tensor(x)",
    "torch.as_tensor(x, dtype=torch.float32)",
    "torch.asarray([1.5])",
    "torch.zeros(2, 3)",
    "torch.zeros((2, 3))",
    "torch.zeros([2])",
    "torch.zeros(())",
    "torch.zeros(0, 2)",
    "torch.zeros(2, dtype=torch.int64)",
    "torch.zeros(size=(2, 1))",
    "torch.ones(2, 3, dtype=torch.bool)",
    "torch.ones(())",
    "torch.ones(torch.Size([2, 1]))",
    "torch.zeros(-1)",
    "torch.zeros(2.5)",
    "torch.full((2, 3), 7)",
    "torch.full((2,), 1.5)",
    "torch.full([2], True)",
    "torch.full((), 3, dtype=torch.float64)",
    "torch.full(size=(1, 2), fill_value=2)",
    "torch.full((2,), 300, dtype=torch.uint8)",
    "torch.zeros_like(x)",
    "torch.ones_like(x, dtype=torch.int32)",
    "torch.full_like(x, 3)",
    "torch.zeros_like(x, requires_grad=True).requires_grad",
    "x.new_zeros(2, 3)",
    "x.new_ones((2,))",
    "x.new_full((2, 2), 3)",
    "x.new_tensor([1, 2])",
    "x.new_zeros(3, dtype=torch.int64)",
    "x.new_empty(2, 3).shape",
    "torch.empty(2, 3).shape",
    "torch.empty_like(x).shape",
    "torch.arange(5)",
    "torch.arange(2, 8)",
    "torch.arange(1, 2, 0.25)",
    "torch.arange(5, 0, -2)",
    "torch.arange(0)",
    "torch.arange(3.0)",
    "torch.arange(0, 1, 0.1)",
    "torch.arange(5, dtype=torch.float32)",
    "torch.arange(end=4)",
    "torch.arange(start=1, end=4, step=2)",
    "torch.arange(5, 1)",
    "torch.arange(0, 5, 0)",
    "torch.arange(-3, 3, dtype=torch.int8)",
    "torch.linspace(0, 1, 5)",
    "torch.linspace(-2, 3, 4, dtype=torch.float64)",
    "torch.linspace(1, 1, 3)",
    "torch.linspace(0, 1, 1)",
    "torch.linspace(3, -3, steps=7)",
    "torch.logspace(0, 2, 3)",
    "torch.logspace(-1, 1, 5, base=2)",
    "torch.eye(3)",
    "torch.eye(2, 4)",
    "torch.eye(3, dtype=torch.int64)",
    "torch.eye(0)",
    "torch.is_tensor(x)",
    "torch.is_tensor(3)",
    "torch.scalar_tensor(2)",
    "torch.from_numpy(np.arange(3.0))",
    "torch.from_numpy(np.array(True))",
    "torch.empty(0).numel()",
    "torch.tensor(x.tolist())",
]


@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("code", CODES)
def test_values(code):
    assert_mirrored(code, 4, x=values((2, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    for code in (
        "torch.zeros(3, dtype={0})",
        "torch.ones(2, dtype={0})",
        "torch.full((2,), 1, dtype={0})",
        "torch.tensor([0, 1, 2], dtype={0})",
        "torch.eye(2, dtype={0})",
    ):
        assert_mirrored(code.format(f"torch.{dtype}"))
    if dtype != "bool":
        assert_mirrored(f"torch.arange(5, dtype=torch.{dtype})")
    for other in DTYPES:
        if {"float", "uint"} != {dtype[:-1].rstrip("0123456789"), other.rstrip("0123456789")}:
            assert_mirrored(f"x.to(torch.{other})", x=(np.array([0, 1, 2, 3]), dtype))


def test_default_dtype():
    before = lowgrad.get_default_dtype()
    try:
        lowgrad.set_default_dtype(lowgrad.float64)
        assert lowgrad.tensor(1.5).dtype is lowgrad.float64
        assert lowgrad.zeros(2).dtype is lowgrad.float64
        assert lowgrad.exp(lowgrad.tensor(1)).dtype is lowgrad.float64
        assert (lowgrad.tensor(1) + 1.5).dtype is lowgrad.float64
        assert repr(lowgrad.tensor(1.5)) == "tensor(1.5000)"
    finally:
        lowgrad.set_default_dtype(before)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1_000_000])
def test_no_memory_is_shared_with_numpy(size):
    source = np.arange(size, dtype=np.float32)
    made = [
        lowgrad.from_numpy(source),
        lowgrad.tensor(source),
        lowgrad.as_tensor(source),
        lowgrad.Tensor(source),
    ]
    taken = [x.numpy() for x in made] + [np.asarray(x) for x in made]
    source[:] = -1
    for array in taken:
        array[:] = -2

    for x in made:
        assert x[-1].item() == size - 1
        assert x.sum().item() >= 0


def test_reversed_and_strided_arrays_are_read_in_their_own_order():
    array = np.arange(12.0).reshape(3, 4)
    for given in (
        array[::-1],
        array[:, ::-2],
        array.T,
        np.broadcast_to(array[:1], (5, 4)),
        np.asfortranarray(array),
    ):
        np.testing.assert_array_equal(lowgrad.from_numpy(given).numpy(), given)
        assert lowgrad.from_numpy(given).reshape(-1).tolist() == given.ravel().tolist()
