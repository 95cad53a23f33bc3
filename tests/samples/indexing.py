"""Samples of the indexing family. Indices are few, so that equal ones meet."""

from lowgrad.ir.types import int32, int64
from samples.base import Range, Sample, tensor

VALUES: Range = (-2.0, 2.0)
SHAPE = (3, 4, 5)

# (x, index, dim) of take and its transpose.
TAKES = [
    *((SHAPE, (2, 3), dim) for dim in range(3)),
    (SHAPE, (7,), 1),
    ((4,), (), 0),
    ((4, 2), (0,), 0),
    ((3, 0), (2,), 0),
    ((3, 0), (), 0),
]
# (x, index, dim) of the ops by element: repeated ones, one a row, fewer rows than there are.
GATHERS = [
    *((SHAPE, tuple(6 if d == dim else n for d, n in enumerate(SHAPE)), dim) for dim in range(3)),
    ((4, 5), (4, 1), 1),
    ((4, 5), (2, 3), 1),
    ((4, 5), (3, 0), 1),
    ((4, 0), (2, 0), 0),
]


def ranges(x: tuple[int, ...], dim: int, *, index_at: int = 1) -> tuple[Range, ...]:
    """Values for every input but the index."""
    return tuple((0, x[dim]) if i == index_at else VALUES for i in range(3))


def taken(x, index, dim):
    """The shape that take gives."""
    return (*x[:dim], *index, *x[dim + 1 :])


def index_type(shape, dtype=int64):
    return tensor(*shape, dtype=dtype)


SAMPLES = {
    "take": [
        *(Sample((tensor(*x), index_type(i)), {"dim": d}, ranges(x, d)) for x, i, d in TAKES),
        Sample((tensor(4, 2), index_type((3,), int32)), {"dim": 0}, ranges((4,), 0)),
    ],
    "index_add": [
        Sample(
            (tensor(*x), index_type(i), tensor(*taken(x, i, d))), {"dim": d}, ranges(x, d), terms=8
        )
        for x, i, d in TAKES
    ],
    "gather": [
        *(Sample((tensor(*x), index_type(i)), {"dim": d}, ranges(x, d)) for x, i, d in GATHERS),
        Sample((tensor(4, 5), index_type((4, 1), int32)), {"dim": 1}, ranges((4, 5), 1)),
    ],
    "scatter_add": [
        Sample((tensor(*x), index_type(i), tensor(*i)), {"dim": d}, ranges(x, d), terms=8)
        for x, i, d in GATHERS
    ],
    "scatter": [
        *(
            Sample((tensor(*x), index_type(i), tensor(*i)), {"dim": d}, ranges(x, d))
            for x, i, d in GATHERS
        ),
        # More sources than indices: those behind are not used.
        Sample((tensor(4, 5), index_type((2, 3)), tensor(4, 9)), {"dim": 1}, ranges((4, 5), 1)),
    ],
}


def take(x, index, dim):
    """torch takes by lists of indices only."""
    flat = x.index_select(dim, index.reshape(-1))
    return flat.reshape(taken(tuple(x.shape), tuple(index.shape), dim))


def index_add(base, index, src, dim):
    """torch adds by lists of indices only."""
    shape = (*base.shape[:dim], index.numel(), *base.shape[dim + 1 :])
    return base.index_add(dim, index.reshape(-1), src.reshape(shape))


TORCH = {
    "take": take,
    "index_add": index_add,
    "gather": lambda x, index, dim: x.gather(dim, index.long()),
    "scatter_add": lambda base, index, src, dim: base.scatter_add(dim, index, src),
}
NO_TORCH = {
    "scatter": "where indices repeat, torch promises nothing of the result, and its gradient is no"
    " slope: test_indexing compares where they do not",
}
NEEDS_RANK = dict.fromkeys(("gather", "scatter_add", "scatter"), "the index goes along a dim")
