"""Attention: functional and as a module, with all its masks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from twin import assert_same, assert_same_module, numbers, ours, same_weights, theirs

import lowgrad
import lowgrad.nn as nn
import lowgrad.nn.functional as F
from lowgrad.errors import ArgumentError, ShapeError

QKV = numbers(2, 3, 4, 5), numbers(2, 3, 6, 5, seed=1), numbers(2, 3, 6, 7, seed=2)
SEEN = np.random.default_rng(0).uniform(size=(4, 6)) < 0.6
SEEN[:, 0] = True


@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal", "scale"])
def test_scaled_dot_product_attention(kind):
    def attention(F, convert):
        options = {
            "none": {},
            "bool": {"attn_mask": convert(SEEN)},
            "float": {"attn_mask": convert(numbers(2, 1, 4, 6, seed=3))},
            "causal": {"is_causal": True},
            "scale": {"scale": 0.3},
        }[kind]
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)

    assert_same(attention(F, ours), attention(TF, theirs), *QKV)


def test_a_row_that_sees_nothing_gives_zeros():
    seen = SEEN.copy()
    seen[1] = False

    def attention(F, convert):
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, convert(seen))

    assert_same(attention(F, ours), attention(TF, theirs), *QKV)


def test_grouped_heads():
    arrays = numbers(2, 6, 4, 5), numbers(2, 3, 6, 5, seed=1), numbers(2, 3, 6, 7, seed=2)

    assert_same(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        *arrays,
    )


def test_dropped_weights_are_zero_or_doubled():
    lowgrad.manual_seed(0)
    q, k = lowgrad.zeros(1, 4, 2), lowgrad.zeros(1, 8, 2)

    weights = F.scaled_dot_product_attention(q, k, lowgrad.eye(8).unsqueeze(0), dropout_p=0.5)

    assert set(weights.flatten().tolist()) == {0.0, 0.25}


def test_attention_refuses():
    q, k, v = (ours(x) for x in QKV)
    with pytest.raises(ShapeError, match=r"query \[\.\., L, E\]"):
        F.scaled_dot_product_attention(q, v, v)
    with pytest.raises(ArgumentError, match="exclude each other"):
        F.scaled_dot_product_attention(q, k, v, ours(SEEN), is_causal=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["self", "cross", "other sizes"])
def test_multihead_attention(kind, batch_first, bias):
    sizes = {"kdim": 5, "vdim": 3} if kind == "other sizes" else {}
    arguments = {"bias": bias, "batch_first": batch_first, **sizes}
    module, reference = (lib.MultiheadAttention(8, 2, **arguments) for lib in (nn, torch.nn))
    lengths = (2, 4), (2, 6)
    q, k, v = (
        numbers(*(n if batch_first else n[::-1]), size, seed=i)
        for i, (n, size) in enumerate(
            zip(
                (lengths[0], lengths[1], lengths[1]),
                (8, sizes.get("kdim", 8), sizes.get("vdim", 8)),
                strict=True,
            )
        )
    )
    arrays = [q] if kind == "self" else [q, k, v]

    def first(layer):
        return lambda *xs: layer(*(xs * 3 if kind == "self" else xs))[0]

    same_weights(module, reference)
    assert list(module.state_dict()) == list(reference.state_dict())
    assert_same(first(module), first(reference), *arrays)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("masks", ["key_padding_mask", "attn_mask", "key_padding_mask attn_mask"])
@pytest.mark.parametrize("floating", [True, False])
def test_masks_and_weights_of_multihead_attention(masks, floating, average):
    module, reference = (lib.MultiheadAttention(8, 2, batch_first=True) for lib in (nn, torch.nn))
    same_weights(module, reference)
    hidden = {
        "key_padding_mask": np.array([[False] * 5, [False, True, False, True, True]]),
        "attn_mask": np.triu(np.ones((5, 5), bool), 1),
    }
    if floating:
        hidden = {n: np.where(m, -np.inf, 0.0) for n, m in hidden.items()}

    for part in range(2):

        def output(layer, convert, part=part):
            given = {name: convert(hidden[name]) for name in masks.split()}
            return lambda x: layer(x, x, x, average_attn_weights=average, **given)[part]

        assert_same(output(module, ours), output(reference, theirs), numbers(2, 5, 8))


def test_unbatched_and_causal_multihead_attention():
    module, reference = (lib.MultiheadAttention(8, 2) for lib in (nn, torch.nn))
    same_weights(module, reference)
    mask = theirs(np.triu(np.ones((5, 5), bool), 1))

    def ours_(x):
        return module(x, x, x, need_weights=False, is_causal=True)[0]

    def theirs_(x):
        return reference(x, x, x, need_weights=False, attn_mask=mask, is_causal=True)[0]

    assert_same(ours_, theirs_, numbers(5, 8))


def test_a_mask_for_each_head():
    module, reference = (lib.MultiheadAttention(8, 2, batch_first=True) for lib in (nn, torch.nn))
    same_weights(module, reference)
    mask = np.random.default_rng(0).uniform(size=(6, 4, 4)) < 0.4
    mask[:, :, 0] = False

    def output(layer, convert):
        return lambda x: layer(x, x, x, attn_mask=convert(mask))[0]

    assert_same(output(module, ours), output(reference, theirs), numbers(3, 4, 8))


def test_multihead_attention_starts_as_pytorchs():
    layer = nn.MultiheadAttention(64, 4)
    bound = (6 / (64 + 3 * 64)) ** 0.5

    weight = layer.in_proj_weight.detach().numpy()

    assert bound * 0.95 < np.abs(weight).max() <= bound
    assert not layer.in_proj_bias.detach().numpy().any()
    assert not layer.out_proj.bias.detach().numpy().any()


def test_multihead_attention_refuses():
    with pytest.raises(ArgumentError, match="embed_dim 8 must be a multiple of num_heads 3"):
        nn.MultiheadAttention(8, 3)
    x = lowgrad.zeros(4, 2, 8)
    with pytest.raises(ShapeError, match=r"attn_mask must be \(4, 4\) or \(4, 4, 4\)"):
        nn.MultiheadAttention(8, 2)(x, x, x, attn_mask=lowgrad.zeros(3, 4))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_encoder_layer(activation, norm_first):
    arguments = (8, 2, 16, 0.0, activation)
    options = {"batch_first": True, "norm_first": norm_first}
    module, reference = (
        lib.TransformerEncoderLayer(*arguments, **options) for lib in (nn, torch.nn)
    )

    assert_same_module(module, reference, numbers(2, 5, 8))
