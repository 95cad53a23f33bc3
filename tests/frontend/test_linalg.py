import pytest
from mirror import assert_gradients_mirrored, assert_mirrored, values

SHAPES = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (4, 3, 2)),
    ((5, 1, 2, 3), (1, 4, 3, 2)),
    ((1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((0, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((0,), (0,)),
    ((1, 1), (1, 1)),
    ((2, 3), (4, 3)),
    ((), (3,)),
    ((2, 2, 3), (3, 3, 4)),
]
EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("i,j->ij", (3,), (4,)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("...ij,jk->...ik", (5, 2, 3), (3, 4)),
    ("...i,...i->...", (2, 3), (2, 3)),
    ("ij,kj->ki", (2, 3), (4, 3)),
    ("ijk,jil->kl", (2, 3, 4), (3, 2, 5)),
    ("i,i", (3,), (3,)),
    ("ij,j->i", (2, 3), (3,)),
    ("bij,kj->bik", (5, 2, 3), (4, 3)),
    ("ii,j->ij", (3, 3), (2,)),
    ("ij,jk->", (2, 3), (3, 4)),
    ("i j, j k -> i k", (2, 3), (3, 4)),
    ("ij,jk->il", (2, 3), (3, 4)),
    ("ij,jk->ik", (2, 3), (4, 5)),
]
CODES = [
    "torch.mm(x, y)",
    "x @ y",
    "x.matmul(y)",
    "x.mm(y)",
    "torch.mv(x, y[:, 0])",
    "torch.dot(x[0], y[:, 0])",
    "torch.inner(x, x)",
    "torch.outer(x[0], y[0])",
    "torch.addmm(z, x, y)",
    "torch.addmm(z, x, y, beta=0.5, alpha=2)",
    "torch.addmm(z[0], x, y, beta=0)",
    "torch.tensordot(x, y, 1)",
    "torch.tensordot(x, x, dims=([0, 1], [0, 1]))",
    "torch.tensordot(x, y, dims=0)",
    "torch.einsum('ij->ji', x)",
    "torch.einsum('ij->', x)",
    "torch.einsum('ii->i', x @ x.T)",
    "torch.einsum('ii', x @ x.T)",
    "torch.einsum('ij,jk,kl->il', x, y, y.T)",
    "torch.bmm(x[None], y[None])",
    "torch.baddbmm(z[None], x[None], y[None])",
    "x @ 3",
    "torch.mm(x[0], y)",
    "torch.bmm(x, y)",
    "torch.dot(x, y)",
    "x.t() @ x",
    "torch.matmul(x, other=y)",
    "x.T.T @ y",
    "torch.kron(x, y)",
    "torch.cross(x, x.flip(0), dim=1)",
    "torch.chain_matmul(x, y)",
    "torch.linalg.norm(x)",
    "torch.addmv(x[:, 0], x, y[:, 0])",
    "torch.vdot(x[0], x[1])",
    "torch.cdist(x, y.T)",
]
CODES = [
    c
    for c in CODES
    if not any(w in c for w in ("kron", "cross", "chain", "linalg", "vdot", "cdist", "addmv"))
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul(shapes):
    x, y = values(shapes[0]), values(shapes[1], seed=1)
    assert_mirrored("x @ y", x=x, y=y)
    assert_gradients_mirrored("torch.matmul(x, y)", twice=True, x=x, y=y)
    for dtype in ("float32", "float16", "bfloat16", "int64"):
        assert_mirrored("x @ y", 4, x=values(shapes[0], dtype), y=values(shapes[1], dtype, seed=1))


@pytest.mark.parametrize(("equation", "a", "b"), EINSUMS)
def test_einsum(equation, a, b):
    x, y = values(a), values(b, seed=1)
    assert_mirrored(f"torch.einsum('{equation}', x, y)", x=x, y=y)
    assert_gradients_mirrored(f"torch.einsum('{equation}', [x, y])", twice=True, x=x, y=y)


@pytest.mark.parametrize("code", CODES)
def test_functions(code):
    x, y, z = values((2, 3)), values((3, 4), seed=1), values((2, 4), seed=2)
    assert_mirrored(code, x=x, y=y, z=z)
    assert_gradients_mirrored(code, twice=True, x=x, y=y, z=z)


@pytest.mark.parametrize(
    "dtypes", [("float32", "float64"), ("float16", "float32"), ("int64", "float32")]
)
def test_dtypes_do_not_mix(dtypes):
    assert_mirrored("x @ y", x=values((2, 3), dtypes[0]), y=values((3, 2), dtypes[1]))
