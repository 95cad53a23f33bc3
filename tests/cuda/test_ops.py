"""Every op on the GPU, eagerly: what the reference gives, in every float type."""

import numpy as np
import oracle
import pytest
from samples import SAMPLES

import lowgrad
from lowgrad import devices, dispatch
from lowgrad.ir.op import REGISTRY, evaluate, outputs_of
from lowgrad.ir.types import bfloat16, float16, float32
from lowgrad.runtime.cuda.array import DeviceArray, upload
from lowgrad.tape import Ref

FLOATS = (float32, float16, bfloat16)
ROWS = [
    pytest.param(REGISTRY[name], sample, id=f"{name} {sample}")
    for name, samples in SAMPLES.items()
    for sample in samples
]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.short)
@pytest.mark.parametrize(("op", "sample"), ROWS)
def test_an_op_gives_what_the_reference_gives(gpu, op, sample, dtype):
    typed = sample.with_float(dtype)
    if typed == sample and dtype is not float32:
        pytest.skip("no floats")
    arrays = typed.arrays()
    types = outputs_of(op, typed.inputs, typed.attrs)
    want = evaluate(op, arrays, typed.attrs, types)
    place = devices.gpu_of(gpu)
    refs = tuple(Ref(t, upload(a, t, place)) for a, t in zip(arrays, typed.inputs, strict=True))
    with dispatch.placed(place):
        made = dispatch.apply(op, refs, typed.attrs)

    for ref, expected, type_ in zip(made, want, types, strict=True):
        assert isinstance(ref.array, DeviceArray)
        got = devices.on_host(ref.array)
        assert got.shape == expected.shape
        if type_.dtype.is_floating_point:
            terms = max(sample.terms, 1)
            allowed = 2 * oracle.tolerance(expected, type_.dtype, terms=terms, ulps=sample.ulps + 4)
            if terms > 1:
                allowed = np.maximum(allowed, 1e-5)
            found, exact = got.astype(np.float64), expected.astype(np.float64)
            same = (found == exact) | (np.isnan(found) & np.isnan(exact))
            with np.errstate(invalid="ignore"):
                close = np.abs(found - exact) <= allowed
            assert np.all(close | same), f"{got} is not {expected}"
        else:
            np.testing.assert_array_equal(got, expected)


def test_a_transposed_operand_is_no_copy(mock):
    a, b = lowgrad.randn(5, 3).cuda(), lowgrad.randn(5, 4).cuda()
    mock.reset()

    product = a.T @ b

    assert len(mock.calls("cuLaunchKernelEx")) == 1
    assert not mock.calls("cuMemcpyDtoDAsync")
    np.testing.assert_allclose(
        product.tolist(), (a.cpu().T @ b.cpu()).tolist(), rtol=1e-5, atol=1e-6
    )


def test_numbers_of_the_host_are_one_kernel(mock):
    x = lowgrad.ones(6).cuda()
    x * 2 + 1
    mock.reset()
    y = x * 3 + 1.5
    assert len(mock.calls("cuLaunchKernelEx")) == 2, "one an op"
    assert not mock.calls("cuModuleLoadData"), "another number is no other kernel"
    assert y.tolist() == [4.5] * 6


def test_gradients_flow_between_devices(gpu):
    w = lowgrad.ones(3, requires_grad=True)
    (w.to(gpu) * lowgrad.tensor([1.0, 2.0, 3.0]).to(gpu)).sum().backward()
    assert w.grad.device.type == "cpu"
    assert w.grad.tolist() == [1.0, 2.0, 3.0]


def test_random_numbers_are_those_of_the_cpu(gpu):
    for make in (
        lambda d: lowgrad.rand(7, 3, device=d),
        lambda d: lowgrad.randn(9, device=d),
        lambda d: lowgrad.randint(0, 50, (11,), device=d),
        lambda d: lowgrad.randperm(12, device=d),
        lambda d: lowgrad.ones(40, device=d).bernoulli(0.3),
        lambda d: lowgrad.zeros(5, device=d).normal_(2, 3),
        lambda d: lowgrad.nn.functional.dropout(lowgrad.ones(30, device=d), 0.4),
    ):
        lowgrad.manual_seed(5)
        expected = make("cpu")
        lowgrad.manual_seed(5)
        found = make(gpu)
        assert found.device.type == "cuda"
        np.testing.assert_allclose(found.cpu().numpy(), expected.numpy(), rtol=2e-6, atol=2e-6)


def test_new_tensors_are_made_where_they_are_asked_for(gpu):
    x = lowgrad.ones(3, device=gpu)
    made = {
        "zeros": lowgrad.zeros(2, device=gpu),
        "tensor": lowgrad.tensor([1.0], device=gpu),
        "arange": lowgrad.arange(4, device=gpu),
        "linspace": lowgrad.linspace(0, 1, 5, device=gpu),
        "eye": lowgrad.eye(3, device=gpu),
        "full_like": lowgrad.full_like(x, 2),
        "zeros_like": lowgrad.zeros_like(x),
        "rand_like": lowgrad.rand_like(x),
        "new_zeros": x.new_zeros(3),
        "new_tensor": x.new_tensor([1, 2]),
        "triu": lowgrad.ones(3, 3, device=gpu).triu(),
        "cumprod": x.cumprod(0),
        "one_hot": lowgrad.arange(3, device=gpu).one_hot(4),
        "mask": x[x > 0],
        "indexed": x[lowgrad.tensor([0, 2])],
        "nonzero": x.nonzero(),
        "unique": x.unique(),
        "where": lowgrad.where(x > 0, x, 0.0),
    }
    assert {name for name, t in made.items() if t.device.type != "cuda"} == set()
    with lowgrad.device(gpu):
        assert lowgrad.ones(2).device.type == "cuda"
    assert lowgrad.ones(2).device.type == "cpu"


def test_writing_in_place_and_through_views(gpu):
    def play(x):
        x[1:3] = 7
        x[:, 0] += 1
        x.T[2].mul_(2)
        x[lowgrad.tensor([0, 3], device=x.device)] = 0.5
        x.masked_fill_(x > 6.5, -1)
        return x

    start = lowgrad.arange(20, dtype=lowgrad.float32).reshape(5, 4)
    assert play(start.clone().to(gpu)).tolist() == play(start.clone()).tolist()


def test_a_tensor_prints_its_device(gpu):
    assert repr(lowgrad.ones(2, device=gpu)) == "tensor([1., 1.], device='cuda:0')"
