"""Operands that the copy engine reads: descriptors packed, passed and kept up with moved inputs."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import lowgrad
from lowgrad.codegen.cuda import eager, machine
from lowgrad.codegen.tiling import DotTiling, Tiling
from lowgrad.errors import LaunchError
from lowgrad.runtime.cuda.launch import Arguments
from lowgrad.runtime.cuda.tensor_map import TensorMap

BOXED = DotTiling(64, 64, 32, "dot", 4, 3, boxes=True)


@pytest.fixture
def boxed(monkeypatch):
    """Every product reads by descriptors, small ones too."""

    def tiling(target, precision):
        return Tiling(target=target, descriptors=True, dot=BOXED)

    monkeypatch.setattr(machine, "tiling_for", tiling)
    # Eager ops keep theirs: had the module not been imported by now, it would import this one.
    assert eager.tiling_for is not tiling


def matrices(dtype, m=96, n=128, k=64):
    generator = np.random.default_rng(3)
    a, b = generator.standard_normal((m, k)), generator.standard_normal((k, n))
    return [lowgrad.tensor(x.astype(np.float32)).to(dtype) for x in (a, b)]


def close(made, expected, atol=1e-3):
    """Equal but for one rounding to 16 bits."""
    made, expected = made.cpu().float().numpy(), expected.float().numpy()
    np.testing.assert_allclose(made, expected, rtol=8e-3, atol=atol)


@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16])
def test_a_product_read_by_descriptors(mock, boxed, dtype):
    a, b = matrices(dtype)
    product = lowgrad.compile(lambda a, b: a @ b)

    made = product(a.cuda(), b.cuda())

    close(made, a @ b)
    assert len(mock.calls("cuTensorMapEncodeTiled")) == 2


@pytest.mark.parametrize("shape", [(96, 72), (200, 136)])
def test_transposed_operands_and_tails(mock, boxed, shape):
    m, n = shape
    x, w = matrices(lowgrad.bfloat16, m, n, 160)
    product = lowgrad.compile(lambda x, w: (x @ w.T, x.T @ x))

    made = product(x.cuda(), w.T.contiguous().cuda())

    for one, other in zip(made, (x @ w, x.T @ x), strict=True):
        close(one, other)
    assert mock.calls("cuTensorMapEncodeTiled")


def test_a_step_keeps_its_descriptors_until_an_input_moves(mock, boxed):
    a, b = matrices(lowgrad.bfloat16)
    product = lowgrad.compile(lambda a, b: (a @ b).relu() @ b.T)
    weights, first = b.cuda(), a.cuda()
    product(first, weights)
    product(first, weights)
    mock.reset()

    product(first, weights)
    again = len(mock.calls("cuTensorMapEncodeTiled"))
    other = (a + 1).cuda()
    made = product(other, weights)

    # What lies in the arena and the inputs stays where it is.
    assert again == 0
    assert len(mock.calls("cuTensorMapEncodeTiled")) == 1
    expected = ((a + 1) @ b).relu() @ b.T
    close(made, expected, atol=0.5)


def test_a_descriptor_that_the_driver_refuses_is_a_launch_error(mock):
    arguments = Arguments([None, TensorMap((64, 64), (32, 32), 6, 2, 3)])

    with pytest.raises(LaunchError, match=r"64 x 64 elements of 2 bytes in blocks of 32 x 32"):
        arguments.fill([16, 24])


def test_arguments_lie_as_the_kernel_reads_them():
    plain = Arguments([None, None])
    plain.fill([0x10, 0x20], scratch=0x30)

    addresses = (ctypes.c_uint64 * 4).from_address(plain.pointer)
    assert [ctypes.c_uint64.from_address(a).value for a in addresses] == [0x10, 0x20, 0x30, 0]


def test_descriptors_lie_at_multiples_of_their_size(mock):
    tensor_map = TensorMap((48, 40), (32, 8), 10, 2, 1)
    arguments = Arguments([None, tensor_map, None, tensor_map])
    arguments.fill([0x10, 0x100, 0x20, 0x200])

    addresses = list((ctypes.c_uint64 * 14).from_address(arguments.pointer))
    first, second = addresses[1], addresses[7]
    assert first % 128 == second % 128 == 0
    # The mock writes the address first, then type, rank, swizzle, dims, block: innermost first.
    assert ctypes.c_uint64.from_address(second).value == 0x200
    facts = (ctypes.c_uint32 * 10).from_address(first + 8)
    assert (list(facts[:5]), list(facts[8:10])) == ([9, 2, 1, 40, 48], [8, 32])
    halves = [ctypes.c_int32.from_address(a).value for a in addresses[2:4]]
    words = [ctypes.c_int64.from_address(a).value for a in addresses[4:6]]
    assert (halves, words) == ([48, 40], [40, 1])
    assert ctypes.c_uint64.from_address(addresses[6]).value == 0x20
