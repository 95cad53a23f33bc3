"""DLPack and __cuda_array_interface__ on the mock GPU, and with PyTorch and NumPy on the CPU."""

import ctypes
import gc

import numpy as np
import pytest
import torch

import lowgrad
from lowgrad.exchange import _FRESH, _lent, _Managed, _python


class Consumer:
    """What another library does with a capsule: it takes the tensor over, and gives it back."""

    def __init__(self, capsule):
        pointer = _python.PyCapsule_GetPointer(capsule, _FRESH)
        self.managed = ctypes.cast(pointer, ctypes.POINTER(_Managed))
        _python.PyCapsule_SetName(capsule, b"used_dltensor")
        self.tensor = self.managed.contents.tensor

    def give_back(self):
        self.managed.contents.deleter(self.managed)


class Exporter:
    """An array of another library on the mock GPU."""

    def __init__(self, tensor):
        self.tensor = tensor
        self.streams = []

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        return self.tensor.__dlpack__(stream=stream)


def test_a_tensor_is_lent_without_a_copy(mock):
    x = lowgrad.arange(6, dtype=lowgrad.float32).reshape(2, 3).cuda()

    taken = Consumer(x.__dlpack__(stream=1))

    assert taken.tensor.data == x._ref.array.pointer
    assert (taken.tensor.device.type, taken.tensor.device.index) == (2, 0)
    assert list(taken.tensor.shape[:2]) == [2, 3]
    assert (taken.tensor.dtype.code, taken.tensor.dtype.bits) == (2, 32)
    taken.give_back()
    assert not _lent


def test_what_is_lent_outlives_its_tensor(mock):
    gc.collect()
    lowgrad.cuda.synchronize()
    before = mock.used
    taken = Consumer(lowgrad.ones(64).cuda().__dlpack__())
    lowgrad.cuda.synchronize()
    gc.collect()
    assert mock.used == before + 256

    taken.give_back()
    lowgrad.cuda.synchronize()

    assert mock.used == before


def test_a_capsule_that_nobody_takes_gives_back(mock):
    capsule = lowgrad.ones(3).cuda().__dlpack__()
    assert len(_lent) == 1

    del capsule

    assert not _lent


def test_the_consumers_stream_waits_for_what_computes(mock):
    x = lowgrad.ones(3).cuda()
    mock.reset()

    Consumer(x.__dlpack__(stream=1)).give_back()
    assert not mock.calls("cuStreamWaitEvent"), "the same stream: nothing to wait for"
    other = lowgrad.cuda.Stream()
    with lowgrad.cuda.stream(other):
        y = x + 1
        mock.reset()
        Consumer(y.__dlpack__(stream=1)).give_back()
        (waits,) = mock.calls("cuStreamWaitEvent")
        assert waits.split()[1] == "(nil)", "the consumer's stream waits"
        (recorded,) = mock.calls("cuEventRecord")
        assert recorded.split()[-1] == hex(other.cuda_stream), "for what ours has queued"
        Consumer(y.__dlpack__(stream=-1)).give_back()
    assert len(mock.calls("cuStreamWaitEvent")) == 1


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "int64", "uint8", "bool"])
def test_there_and_back_is_the_same_memory(mock, name):
    x = lowgrad.tensor([[1, 0, 3], [4, 5, 0]]).to(getattr(lowgrad, name)).cuda()
    source = Exporter(x)

    y = lowgrad.from_dlpack(source)

    assert source.streams == [1], "the legacy default stream, as the protocol names it"
    assert y.dtype is x.dtype
    assert y._ref.array.pointer == x._ref.array.pointer
    assert (y + y).float().tolist() == (x + x).float().tolist()
    del y
    gc.collect()
    assert not _lent


def test_a_step_that_updates_what_is_borrowed_works_on_a_copy(mock):
    theirs = lowgrad.ones(8).cuda()
    ours = lowgrad.from_dlpack(Exporter(theirs))

    @lowgrad.compile
    def step():
        ours.add_(1)

    step()

    assert ours.tolist() == [2.0] * 8
    assert theirs.tolist() == [1.0] * 8


def test_the_cuda_array_interface_names_memory_and_stream(mock):
    x = lowgrad.ones(2, 3).cuda()

    facts = x.__cuda_array_interface__

    assert facts["shape"] == (2, 3)
    assert facts["typestr"] == "<f4"
    assert facts["data"] == (x._ref.array.pointer, False)
    assert facts["stream"] == 1
    assert not hasattr(lowgrad.ones(3), "__cuda_array_interface__")
    assert not hasattr(x.bfloat16(), "__cuda_array_interface__")


def test_a_transposed_tensor_is_lent_in_row_major_order(mock):
    x = lowgrad.arange(6).reshape(2, 3).cuda().T

    taken = Consumer(x.__dlpack__())

    lowgrad.cuda.synchronize()
    found = (ctypes.c_int64 * 6).from_address(taken.tensor.data)
    assert list(found) == [0, 3, 1, 4, 2, 5]
    taken.give_back()


def test_what_cannot_be_lent_says_so(mock):
    with pytest.raises(lowgrad.AutogradError, match="requires a gradient"):
        lowgrad.ones(3, device="cuda", requires_grad=True).__dlpack__()
    with pytest.raises(BufferError, match="cuda:0"):
        lowgrad.ones(3).cuda().__dlpack__(dl_device=(1, 0))
    with pytest.raises(TypeError, match="expected an array"):
        lowgrad.from_dlpack([1, 2])


def test_pytorch_and_numpy_share_memory_on_the_cpu():
    theirs = torch.arange(4.0)
    ours = lowgrad.from_dlpack(theirs)
    theirs[0] = 9

    assert ours.tolist() == [9.0, 1.0, 2.0, 3.0]
    assert torch.from_dlpack(ours + 1).tolist() == [10.0, 2.0, 3.0, 4.0]
    np.testing.assert_array_equal(np.from_dlpack(lowgrad.ones(3)), np.ones(3, np.float32))
