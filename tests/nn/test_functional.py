"""linear, embedding, normalisation, dropout, padding, distances."""

import math

import numpy as np
import pytest
import torch.nn.functional as TF
from twin import assert_same, numbers, ours

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.errors import ArgumentError, DTypeError, IndexOutOfRange, ShapeError


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (0, 3)])
def test_linear(shape):
    assert_same(F.linear, TF.linear, numbers(*shape), numbers(5, 3, seed=1), numbers(5, seed=2))


def test_linear_names_its_operands():
    with pytest.raises(ShapeError) as caught:
        F.linear(lowgrad.zeros(2, 4), lowgrad.zeros(5, 3))

    assert "input   float32 (2, 4)\n  weight  float32 (5, 3)" in str(caught.value)


def test_bilinear():
    arrays = numbers(2, 4, 3), numbers(2, 4, 5, seed=1), numbers(6, 3, 5, seed=2)

    assert_same(F.bilinear, TF.bilinear, *arrays, numbers(6, seed=3))


@pytest.mark.parametrize("padding_idx", [None, 1, -2])
def test_embedding_adds_the_gradients_of_repeated_rows(padding_idx):
    rows = np.array([[0, 1, 1], [3, 3, 3]])

    def lookup(F):
        return lambda w, i: F.embedding(i, w, padding_idx=padding_idx)

    assert_same(lookup(F), lookup(TF), numbers(4, 5), rows)


def test_embedding_refuses_floats_and_padding_outside():
    with pytest.raises(DTypeError, match="whole numbers, not float32"):
        F.embedding(lowgrad.zeros(2), lowgrad.zeros(4, 3))
    with pytest.raises(IndexOutOfRange, match="within the 4 rows, not 4"):
        F.embedding(lowgrad.zeros(2, dtype=lowgrad.int64), lowgrad.zeros(4, 3), padding_idx=4)


def test_one_hot():
    classes = np.array([[0, 2], [1, 2]])

    assert_same(F.one_hot, TF.one_hot, classes)
    assert_same(lambda x: F.one_hot(x, 5), lambda x: TF.one_hot(x, 5), classes)
    with pytest.raises(IndexOutOfRange, match="class 2 is not one of 2"):
        F.one_hot(ours(classes), 2)


@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_layer_norm(shape):
    arrays = numbers(3, 4, 5), numbers(*shape, seed=1), numbers(*shape, seed=2)

    assert_same(
        lambda x, w, b: F.layer_norm(x, shape, w, b, eps=0.5),
        lambda x, w, b: TF.layer_norm(x, shape, w, b, eps=0.5),
        *arrays,
    )
    assert_same(lambda x: F.layer_norm(x, shape), lambda x: TF.layer_norm(x, shape), arrays[0])


@pytest.mark.parametrize("eps", [None, 0.5])
def test_rms_norm(eps):
    assert_same(
        lambda x, w: F.rms_norm(x, (5,), w, eps),
        lambda x, w: TF.rms_norm(x, (5,), w, eps),
        numbers(3, 5),
        numbers(5, seed=1),
    )


def test_norms_of_half_are_taken_in_float32():
    x = lowgrad.full((2, 4), 300.0, dtype=lowgrad.float16)  # its square is no float16

    assert F.rms_norm(x, (4,)).tolist() == [[1.0] * 4] * 2
    assert F.layer_norm(x, (4,)).dtype is lowgrad.float16


def test_norms_refuse_other_shapes():
    with pytest.raises(ShapeError, match=r"input must end in \(4,\)"):
        F.layer_norm(lowgrad.zeros(3, 5), (4,))
    with pytest.raises(ShapeError, match=r"must be of that shape"):
        F.rms_norm(lowgrad.zeros(3, 5), (5,), lowgrad.ones(1))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
def test_normalize(p):
    assert_same(
        lambda x: F.normalize(x, p, dim=-1), lambda x: TF.normalize(x, p, dim=-1), numbers(4, 5)
    )


def test_the_zero_vector_has_a_finite_gradient():
    assert_same(F.normalize, TF.normalize, np.array([[0.0, 0.0], [3.0, 4.0]]), relative=1e-6)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_distances(dim):
    x, y = numbers(4, 5), numbers(4, 5, seed=1)

    assert_same(
        lambda a, b: F.cosine_similarity(a, b, dim),
        lambda a, b: TF.cosine_similarity(a, b, dim),
        x,
        y,
    )
    assert_same(F.pairwise_distance, TF.pairwise_distance, x, y, relative=1e-6)


def test_cosine_similarity_broadcasts():
    x, y = numbers(4, 1, 5), numbers(3, 5, seed=1)

    assert_same(
        lambda a, b: F.cosine_similarity(a, b, -1),
        lambda a, b: TF.cosine_similarity(a, b, -1),
        x,
        y,
    )


@pytest.mark.parametrize(
    "widths", [(1, 2), (0, 0), (1, 0, 2, 3), (-1, 2), (-1, -1, 1, -2), (2, 1, 0, 0, 1, 1)]
)
def test_pad(widths):
    assert_same(
        lambda x: F.pad(x, widths, value=1.5),
        lambda x: TF.pad(x, widths, value=1.5),
        numbers(3, 4, 5),
    )


def test_pad_refuses():
    with pytest.raises(ArgumentError, match="at most 1 dims, not 4"):
        F.pad(lowgrad.zeros(3), (1, 1, 1, 1))
    with pytest.raises(ShapeError, match="cuts more than the 3 elements of dim 0"):
        F.pad(lowgrad.zeros(3), (-2, -2))


def test_dropout_keeps_its_share_and_scales():
    lowgrad.manual_seed(0)
    n, p = 40_000, 0.3

    y = F.dropout(lowgrad.ones(n), p).numpy()

    kept = y != 0
    assert abs(kept.mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / n)
    np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=1e-6)


def test_the_gradient_of_dropout_is_its_own_mask():
    x = lowgrad.ones(1000, requires_grad=True)

    y = F.dropout(x, 0.5)
    y.sum().backward()

    assert (y.detach().numpy() == x.grad.numpy()).all()
    assert set(x.grad.tolist()) == {0.0, 2.0}


def test_the_same_seed_drops_the_same():
    draws = []
    for _ in range(2):
        lowgrad.manual_seed(7)
        draws.append(F.dropout(lowgrad.ones(100)).tolist())

    assert draws[0] == draws[1]


def test_dropout_that_does_nothing_returns_its_input():
    x = lowgrad.ones(3)

    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 1.0).tolist() == [0.0] * 3
    with pytest.raises(ArgumentError, match=r"from 0 to 1, not 1\.5"):
        F.dropout(x, 1.5)


def test_a_write_to_what_idle_dropout_returned_is_seen_in_the_input():
    x = lowgrad.ones(3)

    F.dropout(x, 0.5, training=False).add_(1.0)

    assert x.tolist() == [2.0] * 3
