"""Philox gives the published numbers, and what is made of them is uniform and uncorrelated."""

import numpy as np
import pytest

from lowgrad.errors import DTypeError
from lowgrad.ir.types import TensorType, bfloat16, float16, float32, float64, int32, int64
from lowgrad.ops.random import CHUNK, philox4x32, random_bits, random_words, split, uniform

ONES = (1 << 64) - 1
KEY = np.array([1234, 0])
FLOATS = (float64, float32, float16, bfloat16)


# Random123's kat_vectors, "philox4x32 10": counter (two 64-bit numbers), key, result.
@pytest.mark.parametrize(
    ("low", "high", "key", "words"),
    [
        (0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (ONES, ONES, ONES, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0x85A308D3243F6A88,
            0x0370734413198A2E,
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_words(low, high, key, words):
    got = philox4x32((*split(low), *split(high)), split(key))

    assert " ".join(f"{int(w):08x}" for w in got) == words


def test_element_i_is_word_i_mod_4_of_block_i_div_4():
    seed, counter, offset = -5, 2**32 - 1, 3
    count = 4 * CHUNK + 7

    got = random_words(count, np.array([seed, counter]), offset)

    for i in (0, 1, 2, 3, 4, 4 * CHUNK - 1, 4 * CHUNK, count - 1):
        words = philox4x32((*split(i // 4), *split(counter + offset)), split(seed))
        assert got[i] == words[i % 4]


def test_a_longer_stream_begins_with_the_shorter():
    long = random_words(1001, KEY, 0)

    np.testing.assert_array_equal(random_words(30, KEY, 0), long[:30])


def test_bits_are_the_words_as_signed_numbers():
    bits = random_bits.evaluate(KEY, shape=(5, 7), offset=2)

    assert bits.dtype == np.int32
    np.testing.assert_array_equal(bits.view(np.uint32).ravel(), random_words(35, KEY, 2))


@pytest.mark.parametrize("other", [(1235, 0, 0), (1234, 1, 0), (1234, 0, 1), (1234 + 2**32, 0, 0)])
def test_seed_counter_and_offset_each_change_the_stream(other):
    *key, offset = other

    same = random_words(4096, np.array(key), offset) == random_words(4096, KEY, 0)

    assert same.sum() <= 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform_numbers_are_in_range_and_exact(dtype):
    x = uniform.evaluate(KEY, shape=(1 << 16,), dtype=dtype, offset=0)

    assert x.min() >= 0
    assert x.max() < 1
    np.testing.assert_array_equal(x, x.astype(dtype.numpy).astype(x.dtype))
    # 4 sigma around the mean, and around the share of a probability.
    coarse = 0 if dtype in (float64, float32) else 2.0 ** -(9 if dtype is bfloat16 else 12)
    sigma = 1 / np.sqrt(12 * x.size)
    assert abs(x.mean() + coarse - 0.5) < 4 * sigma


def test_the_largest_words_stay_below_one(monkeypatch):
    full = np.full(8, 0xFFFFFFFF, np.uint32)
    monkeypatch.setattr("lowgrad.ops.random.random_words", lambda count, key, offset: full[:count])

    for dtype in FLOATS:
        x = uniform.evaluate(KEY, shape=(4,), dtype=dtype, offset=0)
        assert (x.astype(dtype.numpy).astype(np.float64) < 1).all()


def test_uniform_numbers_fill_their_bins_evenly():
    x = uniform.evaluate(KEY, shape=(1 << 18,), dtype=float32, offset=0)

    counts = np.histogram(x, bins=64, range=(0, 1))[0]

    # Chi squared with 63 degrees of freedom: above 125 has a probability of 5e-6.
    expected = x.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 125


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 32, 128])
def test_neighbours_are_uncorrelated(lag):
    x = uniform.evaluate(KEY, shape=(1 << 18,), dtype=float32, offset=0) - 0.5

    correlation = np.mean(x[lag:] * x[:-lag]) * 12

    assert abs(correlation) < 4 / np.sqrt(x.size)
    assert np.mean(x[lag:] == x[:-lag]) < 1e-4


def test_the_key_is_two_int64():
    for wrong in (TensorType((2,), int32), TensorType((1,), int64)):
        with pytest.raises(DTypeError, match=r"the key is .*, not i64\[2\]"):
            random_bits.infer(wrong, shape=(3,), offset=0)
    with pytest.raises(DTypeError, match="makes floats, not int32"):
        uniform.infer(TensorType((2,), int64), shape=(3,), dtype=int32, offset=0)
