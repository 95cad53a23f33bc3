import numpy as np
import pytest
from mirror import DTYPES, assert_gradients_mirrored, assert_mirrored, values

CODES = [
    "torch.sort(x)",
    "x.sort(0)",
    "x.sort(dim=1, descending=True)",
    "torch.sort(x, 1, True)",
    "x.sort(-1).values",
    "x.sort()[1]",
    "torch.sort(x, stable=True)",
    "x.argsort()",
    "torch.argsort(x, dim=0, descending=True)",
    "torch.msort(x)",
    "torch.topk(x, 2)",
    "x.topk(1, 0)",
    "torch.topk(x, k=2, dim=1, largest=False)",
    "x.topk(3).indices",
    "x.topk(9)",
    "x.topk(0)",
    "x.kthvalue(2)",
    "torch.kthvalue(x, 1, 0, True)",
    "x.kthvalue(0)",
    "x.median()",
    "torch.median(x, 1)",
    "x.median(0, True)",
    "x.median(dim=1).values",
    "x.sort(2)",
    "torch.nanmedian(x)",
    "x.mode(1)",
]
CODES = [c for c in CODES if "nanmedian" not in c and "mode" not in c]


@pytest.mark.parametrize("code", CODES)
def test_values(code):
    for shape in [(3, 4), (2, 3, 4)]:
        assert_mirrored(code, x=values(shape))
        if len(shape) == 2:
            assert_gradients_mirrored(code, x=values(shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_elements_keep_their_order(dtype):
    x = (np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 4, (3, 20)), dtype)
    assert_mirrored("torch.sort(x, dim=1, stable=True)", x=x)
    assert_mirrored("torch.sort(x, dim=1, descending=True, stable=True)", x=x)


def test_nan_is_largest():
    x = ([[3.0, np.nan, -np.inf, np.inf, -0.0, 0.0, np.nan, 1]], "float64")
    for code in (
        "torch.sort(x, stable=True)",
        "torch.sort(x, descending=True, stable=True)",
        "x.topk(3).values",
        "x.median()",
        "x.max(1)",
        "x.argmax()",
        "x.min(1)",
    ):
        assert_mirrored(code, x=x)
