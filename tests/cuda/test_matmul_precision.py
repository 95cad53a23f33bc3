"""`set_float32_matmul_precision`: what float32 products become, eager and compiled."""

import pytest

import lowgrad
from lowgrad.codegen.kernel import Dot, walk
from lowgrad.errors import ArgumentError


@pytest.fixture(autouse=True)
def restored():
    yield
    lowgrad.set_float32_matmul_precision("highest")


def precisions(compiled):
    return {s.precision for k in compiled.kernels for s in walk(k.body) if isinstance(s, Dot)}


@pytest.mark.parametrize(
    ("name", "expected"), [("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")]
)
def test_a_step_is_planned_with_the_precision_of_its_call(name, expected):
    x = lowgrad.randn(64, 64)
    step = lowgrad.compile(lambda x: x @ x, device="cuda", target="cuda:90")
    step.lower(x)

    lowgrad.set_float32_matmul_precision(name)

    assert precisions(step.lower(x)) == {expected}


def test_a_change_records_again_and_back(gpu):
    x = lowgrad.randn(32, 32).to(gpu)
    step = lowgrad.compile(lambda x: x @ x)
    for name in ("highest", "high", "medium", "highest"):
        lowgrad.set_float32_matmul_precision(name)
        step(x)

    assert step.recordings == 2


def test_eager_products_obey(mock):
    x = lowgrad.randn(32, 32).cuda()
    x @ x
    mock.reset()

    x @ x
    before = list(mock.compiled)
    lowgrad.set_float32_matmul_precision("high")
    x @ x

    assert (before, mock.compiled) == ([], ["matmul"])


def test_the_switches_of_backends_are_the_same_setting():
    lowgrad.backends.cuda.matmul.allow_tf32 = True
    assert lowgrad.get_float32_matmul_precision() == "high"
    assert lowgrad.backends.cuda.matmul.allow_tf32

    lowgrad.set_float32_matmul_precision("highest")
    assert not lowgrad.backends.cuda.matmul.allow_tf32


def test_another_name_is_an_error():
    with pytest.raises(ArgumentError, match="highest, high, medium, not 'fast'"):
        lowgrad.set_float32_matmul_precision("fast")


def test_the_older_names_of_amp(gpu):
    from lowgrad.cuda.amp import GradScaler, autocast

    x = lowgrad.randn(8, 8).to(gpu)
    with autocast():
        assert (x @ x).dtype is lowgrad.float16
    assert GradScaler(init_scale=4.0).get_scale() == 4.0
