import copy
import pickle

import numpy as np
import pytest
import torch
from mirror import DTYPES, assert_mirrored, ours, values

import lowgrad
from lowgrad import AutogradError, DeviceError, ShapeError

CODES = [
    "x.shape == (2, 3)",
    "x.shape == torch.Size([2, 3])",
    "tuple(x.shape)",
    "isinstance(x.shape, tuple)",
    "x.shape[0]",
    "x.shape[-1]",
    "list(x.shape)",
    "len(x.shape)",
    "x.shape.numel()",
    "x.size() == x.shape",
    "x.size(0)",
    "x.size(dim=1)",
    "x.dim()",
    "x.ndim",
    "x.numel()",
    "x.nelement()",
    "len(x)",
    "x.element_size()",
    "x.nbytes",
    "x.itemsize",
    "x.dtype",
    "x.is_floating_point()",
    "x.is_cuda",
    "x.requires_grad",
    "x.is_leaf",
    "x.grad is None",
    "x.tolist()",
    "x[0, 0].item()",
    "x.item()",
    "x[0].item()",
    "float(x[0, 0])",
    "int(x[0, 0])",
    "bool(x[0, 0])",
    "bool(x)",
    "[1, 2, 3][x[0, 0].long() * 0]",
    "range(5)[x[0, 0].long() * 0 + 2]",
    "float(x)",
    "int(x[0])",
    "[r.tolist() for r in x]",
    "len(x[0, 0])",
    "list(x[0, 0])",
    "[a + b for a, b in x.T]",
    "sum(x[0])",
    "max(x[0])",
    "1.0 in x",
    "x[0, 0].item() in x",
    "x.device.type",
    "str(x.device)",
    "x.cpu() is x",
    "x.to('cpu') is x",
    "x.to(x.dtype) is x",
    "x.contiguous() is x",
    "x.to(torch.float32).dtype",
    "x.to(torch.zeros(1)).dtype",
    "x.to('cpu', torch.int64)",
    "x.to(dtype=torch.float16)",
    "x.type_as(torch.zeros(1, dtype=torch.int32))",
    "x.float().dtype",
    "x.double().dtype",
    "x.half().dtype",
    "x.bfloat16().dtype",
    "x.long()",
    "x.int()",
    "x.char()",
    "x.byte().shape",
    "x.bool()",
    "x.T.shape",
    "x.mT.shape",
    "x.view(-1).shape",
    "x.size()[1:]",
    "x.shape + (1,)",
    "x.is_contiguous()",
    "x.stride",
    "hash(x) == hash(x)",
    "x == x",
    "x != None",
    "(x == None)",
    "x == 'a'",
    "x is not None",
    "x.relu()",
    "x.softmax(1)",
    "x.log_softmax(-1)",
    "x.sigmoid()",
    "x.tanh()",
    "x.equal(x)",
    "x.allclose(x + 1e-9)",
    "torch.equal(x, x.T)",
    "torch.allclose(x, x + 1)",
    "x.isclose(x)",
    "x.new_zeros(2)",
    "x.clone().detach()",
    "x.get_device()",
    "x.detach().numpy().shape",
    "np.asarray(x).shape",
    "np.sum(x.numpy())",
    "x.numpy().dtype == np.float64",
    "x.dim() == x.ndimension()",
    "x.is_complex()",
    "x.is_signed()",
    "x.data_ptr() > 0",
    "x.dtype.is_floating_point",
    "x.type(torch.int32)",
    "x.max().item()",
    "x.is_sparse",
    "torch.is_floating_point(x)",
    "torch.numel(x)",
    "x.dtype.itemsize",
    "x.flatten().tolist()",
    "torch.zeros(0).tolist()",
    "torch.tensor(3).tolist()",
]
ABSENT = (
    "x.stride",
    "get_device",
    "ndimension",
    "is_complex",
    "is_signed",
    "data_ptr",
    "is_sparse",
    "x != None",
    "(x == None)",
    "x == 'a'",
)


@pytest.mark.parametrize("code", [c for c in CODES if not any(name in c for name in ABSENT)])
def test_facts_and_conversions(code):
    assert_mirrored(code, 4, x=values((2, 3)))


def test_comparing_with_none_is_false():
    x = lowgrad.ones(2)
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0)])
def test_pickle_and_copies(dtype, shape):
    x = ours(*values(shape, dtype))
    x.note = "kept"
    for made in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), x.clone(), copy.copy(x)):
        assert made.dtype is x.dtype
        assert made.shape == x.shape
        assert lowgrad.equal(made, x)
    made = pickle.loads(pickle.dumps(x))
    assert made.note == "kept"
    if x.numel():
        made[...] = 1
        copy.deepcopy(x).fill_(1)
        assert lowgrad.equal(x, ours(*values(shape, dtype)))


def test_copies_of_leaves():
    x = lowgrad.ones(2, requires_grad=True)
    (x * 2).sum().backward()
    made = copy.deepcopy([x, x])
    assert made[0] is made[1]
    assert made[0].requires_grad
    assert made[0].grad.tolist() == [2, 2]
    made[0].grad.zero_()
    assert x.grad.tolist() == [2, 2]
    assert pickle.loads(pickle.dumps(x)).requires_grad
    with pytest.raises(AutogradError, match="only leaf"):
        copy.deepcopy(x * 2)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1_000_000])
def test_arrays_taken_out_are_copies(size):
    x = lowgrad.arange(size, dtype=lowgrad.float32)
    for array in (
        x.numpy(),
        np.asarray(x),
        np.array(x),
        x[:].numpy(),
        x.view(-1).numpy(),
        x.detach().numpy(),
    ):
        array[:] = -1
    before = x.numpy()
    x += 1
    assert before[-1] == size - 1
    assert x[-1].item() == size


def test_numpy_of_every_dtype():
    for name in DTYPES:
        x = ours([0, 1, 1], name)
        assert x.numpy().dtype == x.dtype.numpy
        assert x.tolist() == torch.tensor([0, 1, 1], dtype=getattr(torch, name)).tolist()
    with pytest.raises(AutogradError, match="detach"):
        lowgrad.ones(2, requires_grad=True).numpy()


def test_max_has_named_fields():
    x = lowgrad.tensor([[1.0, 3, 2]])
    found = x.max(1)
    assert found.values.tolist() == [3]
    assert found.indices.tolist() == [1]
    values_, indices = x.min(dim=1)
    assert (values_.item(), indices.item()) == (1, 0)
    assert x.sort(descending=True).values.tolist() == [[3, 2, 1]]


def test_devices():
    x = lowgrad.zeros(2, device="cpu")
    assert x.device == lowgrad.device("cpu") == "cpu"
    assert x.to("cpu") is x
    with pytest.raises(DeviceError, match="cuda"):
        x.to("cuda")
    with pytest.raises(DeviceError, match="cuda"):
        lowgrad.zeros(2, device="cuda:0")
    with pytest.raises(DeviceError, match="not known"):
        lowgrad.device("tpu")


def test_truth_and_numbers_of_several_elements():
    with pytest.raises(ShapeError, match=r"x\.any\(\) or x\.all\(\)"):
        bool(lowgrad.ones(2))
    with pytest.raises(ShapeError, match="needs a tensor of one element"):
        lowgrad.ones(2).item()
    with pytest.raises(TypeError, match="0-d"):
        len(lowgrad.tensor(1))
    with pytest.raises(TypeError, match="0-d"):
        iter(lowgrad.tensor(1))
    with pytest.raises(TypeError, match="index"):
        [1, 2][lowgrad.tensor(1.0)]


def test_tensors_are_keys_by_identity():
    a, b = lowgrad.ones(2), lowgrad.ones(2)
    assert {a: 1, b: 2}[b] == 2
    assert len({a, b, a}) == 2
