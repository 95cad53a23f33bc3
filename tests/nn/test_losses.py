"""Losses: PyTorch's values and gradients, with every option and at every edge."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from twin import assert_equal, assert_same, numbers, ours, theirs

import lowgrad
import lowgrad.nn as nn
import lowgrad.nn.functional as F
from lowgrad.errors import ArgumentError, DTypeError, IndexOutOfRange, ShapeError

REDUCTIONS = ["none", "mean", "sum"]
SHAPES = {"one row": (5,), "rows": (6, 5), "image": (2, 5, 3, 2)}


def labels(shape, seed=0):
    """Classes for logits of this shape, with one ignored where there are several."""
    target_shape = () if len(shape) == 1 else (shape[0], *shape[2:])
    target = np.random.default_rng(seed).integers(0, 5, size=target_shape)
    if target.size > 1:
        target.flat[1] = -100
    return target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_classes(reduction, shape, smoothing, weighted):
    weight = np.array([0.5, 1.0, 2.0, 0.1, 3.0])
    target = labels(shape)

    def loss(F, convert):
        w = convert(weight) if weighted else None
        return lambda x, y: F.cross_entropy(
            x, y, weight=w, reduction=reduction, label_smoothing=smoothing
        )

    assert_same(loss(F, ours), loss(TF, theirs), numbers(*shape, scale=5.0), target)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.2, True)])
def test_cross_entropy_of_probabilities(reduction, shape, smoothing, weighted):
    weight = np.array([0.5, 1.0, 2.0, 0.1, 3.0])
    target = np.abs(numbers(*shape, seed=1))

    def loss(F, convert):
        w = convert(weight) if weighted else None
        return lambda x, y: F.cross_entropy(
            x, y, weight=w, reduction=reduction, label_smoothing=smoothing
        )

    assert_same(loss(F, ours), loss(TF, theirs), numbers(*shape), target)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 2, 7])
def test_nll_loss(reduction, ignore_index):
    target = np.array([0, 4, 2, ignore_index])
    weight = np.array([0.5, 1.0, 2.0, 0.1, 3.0])

    def loss(F, convert):
        return lambda x, y: F.nll_loss(
            x, y, convert(weight), ignore_index=ignore_index, reduction=reduction
        )

    assert_same(loss(F, ours), loss(TF, theirs), numbers(4, 5), target)


def test_the_mean_over_nothing_is_nan_and_the_sum_is_0():
    x, y = numbers(3, 5), np.full(3, -100)

    assert_same(F.cross_entropy, TF.cross_entropy, x, y)
    assert F.cross_entropy(ours(x), ours(y), reduction="sum").item() == 0.0


def test_cross_entropy_of_huge_logits_is_finite():
    x, y = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]]), np.array([1, 2])

    assert_same(F.cross_entropy, TF.cross_entropy, x, y)


def test_half_logits_are_summed_in_float32():
    rows = 9000  # their losses, about 11 each, sum to more than float16 holds
    x = lowgrad.zeros(rows, 4, dtype=lowgrad.float16)
    x[:, 0] = -11.0
    y = lowgrad.zeros(rows, dtype=lowgrad.int64)

    loss = F.cross_entropy(x, y)

    assert loss.dtype is lowgrad.float16
    assert abs(loss.item() - 12.1) < 0.01


def test_accumulating_rows_one_by_one_equals_the_batch_with_unequal_counts():
    weight, data = numbers(7, 5), numbers(4, 3, 7, seed=1)
    target = np.random.default_rng(2).integers(0, 5, size=(4, 3))
    target[1, 1:] = -100
    target[2, 0] = -100
    w = ours(weight, True)
    F.cross_entropy((ours(data) @ w).reshape(12, 5), ours(target.reshape(12))).backward()
    whole, w.grad = w.grad, None
    count = int((target != -100).sum())

    for x, y in zip(data, target, strict=True):
        (F.cross_entropy(ours(x) @ w, ours(y), reduction="sum") / count).backward()

    np.testing.assert_allclose(w.grad.numpy(), whole.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", ["", "weight", "pos_weight", "weight pos_weight"])
def test_bce_with_logits(reduction, options):
    arrays = {"weight": numbers(3, seed=3) ** 2, "pos_weight": np.array([0.5, 2.0, 1.0])}
    x = np.concatenate([numbers(4, 3, scale=5.0), [[0.0, 800.0, -800.0]]])
    y = np.random.default_rng(4).uniform(size=(5, 3))

    def loss(F, convert):
        given = {name: convert(arrays[name]) for name in options.split()}
        return lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction=reduction, **given)

    assert_same(loss(F, ours), loss(TF, theirs), x, y)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_bce(reduction, weighted):
    weight = numbers(3, seed=3) ** 2
    x = np.random.default_rng(4).uniform(size=(5, 3))
    y = np.random.default_rng(5).uniform(size=(5, 3))

    def loss(F, convert):
        w = convert(weight) if weighted else None
        return lambda x: F.binary_cross_entropy(x, convert(y), w, reduction=reduction)

    assert_same(loss(F, ours), loss(TF, theirs), x)


def test_bce_at_certainty_costs_100_and_has_pytorchs_slope():
    x, y = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])

    def loss(F, convert):
        return lambda x: F.binary_cross_entropy(x, convert(y), reduction="none")

    assert_same(loss(F, ours), loss(TF, theirs), x)


def test_bce_refuses_what_is_no_probability():
    with pytest.raises(ArgumentError, match=r"from 0 to 1, not 1\.5"):
        F.binary_cross_entropy(lowgrad.tensor([0.5, 1.5]), lowgrad.tensor([0.0, 1.0]))


@pytest.mark.filterwarnings("ignore:reduction. 'mean':UserWarning")  # PyTorch's, of kl_div
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("smooth_l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.25}),
        ("smooth_l1_loss", {"beta": 0}),
        ("huber_loss", {}),
        ("huber_loss", {"delta": 0.5}),
        ("kl_div", {"log_target": True}),
        ("hinge_embedding_loss", {"margin": 0.5}),
    ],
)
def test_losses_between_numbers(name, arguments, reduction):
    x, y = numbers(6, 4), numbers(6, 4, seed=1)
    y[0], x[1] = x[0], y[1] + 1.0  # no difference, and one just at the kink
    arguments = {**arguments, "reduction": reduction}
    if name.startswith("hinge"):
        y = np.sign(y)

    def loss(F):
        return lambda x, y: getattr(F, name)(x, y, **arguments)

    assert_same(loss(F), loss(TF), x, y)


@pytest.mark.parametrize("reduction", ["none", "batchmean", "sum"])
def test_kl_div_of_probabilities_with_zeros(reduction):
    x, y = numbers(4, 3), np.abs(numbers(4, 3, seed=1))
    y[0, 0] = 0.0

    def loss(F, convert):
        return lambda x: F.kl_div(x, convert(y), reduction=reduction)

    assert_same(loss(F, ours), loss(TF, theirs), x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weighted_losses_between_numbers(name, reduction):
    weight = np.abs(numbers(6, 4, seed=2))

    def loss(F, convert):
        return lambda x, y: getattr(F, name)(x, y, reduction=reduction, weight=convert(weight))

    assert_same(loss(F, ours), loss(TF, theirs), numbers(6, 4), numbers(6, 4, seed=1))


def test_a_broadcast_target_is_warned_about():
    with pytest.warns(UserWarning, match=r"target \(3,\) is broadcast against input \(3, 1\)"):
        F.mse_loss(lowgrad.zeros(3, 1), lowgrad.zeros(3))


REFUSED = {
    "target's shape": (ShapeError, r"must have shape \(3,\)", ((3, 5), (4,)), {}),
    "probabilities' shape": (ShapeError, "the shape of input", ((3, 5), (3, 4)), {"y": "float32"}),
    "float target of nll": (DTypeError, "whole numbers", ((3, 5), (3,)), {"y": "bool"}),
    "smoothing": (ArgumentError, "from 0 to 1, not 2", ((3, 5), (3,)), {"label_smoothing": 2}),
    "reduction": (ArgumentError, "not 'avg'", ((3, 5), (3,)), {"reduction": "avg"}),
}


@pytest.mark.parametrize(("error", "match", "shapes", "options"), REFUSED.values(), ids=REFUSED)
def test_cross_entropy_refuses(error, match, shapes, options):
    options = dict(options)
    dtype = getattr(lowgrad, options.pop("y", "int64"))

    with pytest.raises(error, match=match):
        F.cross_entropy(lowgrad.zeros(shapes[0]), lowgrad.zeros(shapes[1], dtype=dtype), **options)


@pytest.mark.parametrize("label", [5, -1])
def test_cross_entropy_refuses_a_class_that_is_not(label):
    with pytest.raises(IndexOutOfRange):
        F.cross_entropy(lowgrad.zeros(1, 5), lowgrad.tensor([label]))


def test_weight_of_another_length_is_refused():
    with pytest.raises(ShapeError, match="one number for each of the 5 classes"):
        F.cross_entropy(lowgrad.zeros(1, 5), lowgrad.tensor([1]), lowgrad.ones(4))


MODULES = {
    "MSELoss": ({}, "numbers"),
    "L1Loss": ({"reduction": "sum"}, "numbers"),
    "SmoothL1Loss": ({"beta": 0.5}, "numbers"),
    "HuberLoss": ({"delta": 0.5}, "numbers"),
    "HingeEmbeddingLoss": ({"margin": 0.5}, "numbers"),
    "KLDivLoss": ({"reduction": "batchmean", "log_target": True}, "numbers"),
    "CrossEntropyLoss": ({"label_smoothing": 0.1}, "classes"),
    "NLLLoss": ({"ignore_index": 1}, "classes"),
    "BCELoss": ({}, "probabilities"),
    "BCEWithLogitsLoss": ({}, "probabilities"),
}


@pytest.mark.parametrize(("name", "case"), MODULES.items(), ids=MODULES)
def test_loss_modules(name, case):
    arguments, kind = case
    module, reference = (getattr(lib, name)(**arguments) for lib in (nn, torch.nn))
    x, y = (np.random.default_rng(i).uniform(0.1, 0.9, size=(4, 5)) for i in range(2))
    y = np.array([0, 1, 2, 3]) if kind == "classes" else y

    got, want = module(ours(x), ours(y)), reference(theirs(x), theirs(y))

    assert repr(module) == repr(reference)
    assert_equal(got, want)


def test_the_weight_of_a_loss_is_its_buffer():
    loss = nn.CrossEntropyLoss(weight=lowgrad.ones(3))

    assert [name for name, _ in loss.named_buffers()] == ["weight"]
    assert loss.double().weight.dtype is lowgrad.float64


def test_all_pairs_of_reductions_agree_with_none():
    x, y = ours(numbers(6, 4)), ours(numbers(6, 4, seed=1))
    for loss, reduction in itertools.product([F.mse_loss, F.l1_loss], ["mean", "sum"]):
        each = loss(x, y, reduction="none")

        np.testing.assert_allclose(
            loss(x, y, reduction=reduction).item(), getattr(each, reduction)().item(), rtol=1e-12
        )
