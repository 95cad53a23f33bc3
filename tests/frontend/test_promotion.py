import itertools

import pytest
import torch
from mirror import DTYPES, name_of

import lowgrad

OPERATORS = ["__add__", "__mul__", "__truediv__", "__floordiv__", "__eq__", "__pow__"]
SCALARS = [True, 3, 1.5]


def known(a, b):
    """Whether lowgrad has the dtype that PyTorch promotes to (it has no int16)."""
    return {a, b} != {"uint8", "int8"}


def test_promote_types():
    for a, b in itertools.product(DTYPES, DTYPES):
        if known(a, b):
            got = lowgrad.promote_types(getattr(lowgrad, a), getattr(lowgrad, b))
            assert name_of(got) == name_of(
                torch.promote_types(getattr(torch, a), getattr(torch, b))
            )


@pytest.mark.parametrize("rank_a", [0, 1])
@pytest.mark.parametrize("rank_b", [0, 1, "number"])
def test_every_pair_of_kinds(rank_a, rank_b):
    """Tensors with axes decide over 0-d tensors, those over Python numbers."""
    for a in DTYPES:
        others = SCALARS if rank_b == "number" else [b for b in DTYPES if known(a, b)]
        for b, name in itertools.product(others, OPERATORS):
            x, y = (_made(library, a, b, rank_a, rank_b) for library in (lowgrad, torch))
            try:
                want = getattr(y[0], name)(y[1]).dtype
            except RuntimeError:
                with pytest.raises((lowgrad.LowgradError, TypeError)):
                    getattr(x[0], name)(x[1])
                continue
            assert name_of(getattr(x[0], name)(x[1]).dtype) == name_of(want), (a, b, name)
            if name == "__add__":
                result = lowgrad.result_type(*x)
                assert name_of(result) == name_of(torch.result_type(*y))


def _made(library, a, b, rank_a, rank_b):
    first = library.ones((1,) * rank_a, dtype=getattr(library, a))
    if rank_b == "number":
        return first, b
    return first, library.ones((1,) * rank_b, dtype=getattr(library, b))


def test_can_cast():
    for a, b in itertools.product(DTYPES, DTYPES):
        got = lowgrad.can_cast(getattr(lowgrad, a), getattr(lowgrad, b))
        want = torch.can_cast(getattr(torch, a), getattr(torch, b))
        assert got == want, (a, b)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64"])
def test_finfo(name):
    got, want = lowgrad.finfo(getattr(lowgrad, name)), torch.finfo(getattr(torch, name))
    for field in ("max", "min", "eps", "tiny", "bits", "smallest_normal"):
        assert getattr(got, field) == getattr(want, field)


@pytest.mark.parametrize("name", ["int64", "int32", "int8", "uint8"])
def test_iinfo(name):
    got, want = lowgrad.iinfo(getattr(lowgrad, name)), torch.iinfo(getattr(torch, name))
    assert (got.max, got.min, got.bits) == (want.max, want.min, want.bits)


def test_dtypes_know_themselves():
    for name in DTYPES:
        got, want = getattr(lowgrad, name), getattr(torch, name)
        assert got.itemsize == want.itemsize
        assert got.is_floating_point == want.is_floating_point
        assert got.is_signed == want.is_signed
        assert repr(got) == repr(want).replace("torch", "lowgrad")
    assert lowgrad.float is lowgrad.float32
    assert lowgrad.double is lowgrad.float64
    assert lowgrad.half is lowgrad.float16
    assert lowgrad.long is lowgrad.int64
    assert lowgrad.int is lowgrad.int32
