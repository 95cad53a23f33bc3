"""The random family: numbers that are a function of a key and a place, the same on every device.

The generator is Philox4x32-10: ten rounds of multiplications turn a 128-bit counter and a 64-bit
key into four words. Nothing is stateful, so a mask can be recomputed instead of kept.
Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", sec. 4.3 and table 2.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lowgrad.errors import DTypeError
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.types import (
    DType,
    Shape,
    TensorType,
    bfloat16,
    float16,
    float32,
    float64,
    int32,
    int64,
)

Words = npt.NDArray[np.uint64]

ROUNDS = 10
MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
KEY_STEP_0 = 0x9E3779B9  # the golden ratio
KEY_STEP_1 = 0xBB67AE85  # sqrt(3) - 1
LOW_WORD = 0xFFFFFFFF

# How many of a word's high bits a uniform number takes: its dtype's precision, so that each is
# exact, equally spaced, and never rounded up to 1. f64 takes 53 bits of two words.
UNIFORM_BITS: dict[DType, int] = {bfloat16: 8, float16: 11, float32: 24, float64: 53}
F64_HIGH_BITS = 27  # from the first of the two words; the other 26 are from the second

# Blocks at a time: the working set of a round stays in a core's own cache.
CHUNK = 1 << 14

KEY = TensorType((2,), int64)


class Random(Op):
    """`key` is i64[2], (seed, counter); `offset` is added to the counter, so that each use differs.

    Flat element i is word i % 4 of block i // 4, where block b is Philox at the counter (low and
    high word of b, low and high word of counter + offset) with the key (low and high word of seed).
    """

    family = "random"
    absent: ClassVar[dict[str, str]] = {
        "emit": "the skeleton writes Philox at the flat index; it is no arithmetic on tiles"
    }

    def vjp(self, g: Any, out: Any, *inputs: Any, **attrs: Any) -> tuple[None]:
        return (None,)


class RandomBits(Random):
    """32 random bits in each i32."""

    name = "random_bits"

    def infer(self, key: TensorType, *, shape: Shape, offset: int) -> TensorType:
        check_key(self.name, key)
        return TensorType(shape, int32)

    def evaluate(self, key: Array, *, shape: Shape, offset: int) -> Array:
        return random_words(math.prod(shape), key, offset).view(np.int32).reshape(shape)


class Uniform(Random):
    """Uniform in [0, 1), f16, bf16, f32 or f64: UNIFORM_BITS of the element's word, scaled.

    f64's element i has words 2 i and 2 i + 1 to itself. f16 and bf16 are coarse: compare f32 ones
    with a probability, whatever the dtype of the data.
    """

    name = "uniform"

    def infer(self, key: TensorType, *, shape: Shape, dtype: DType, offset: int) -> TensorType:
        check_key(self.name, key)
        if dtype not in UNIFORM_BITS:
            raise DTypeError(f"uniform: makes floats, not {dtype.name}")
        return TensorType(shape, dtype)

    def evaluate(self, key: Array, *, shape: Shape, dtype: DType, offset: int) -> Array:
        count = math.prod(shape)
        if dtype is float64:
            pairs = random_words(2 * count, key, offset).reshape(-1, 2)
            low_bits = UNIFORM_BITS[float64] - F64_HIGH_BITS
            high = pairs[:, 0] >> np.uint32(32 - F64_HIGH_BITS)
            low = pairs[:, 1] >> np.uint32(32 - low_bits)
            return ((high * 2.0**low_bits + low) * 2.0**-53).reshape(shape)
        bits = UNIFORM_BITS[dtype]
        kept = random_words(count, key, offset) >> np.uint32(32 - bits)
        return (kept.astype(np.float32) * np.float32(2.0**-bits)).reshape(shape)


def random_words(count: int, key: Array, offset: int) -> npt.NDArray[np.uint32]:
    """The first `count` words of the stream at `key`, (seed, counter), and `offset`."""
    seed, counter = int(key[0]), int(key[1]) + offset
    blocks = -(-count // 4)
    out = np.empty((blocks, 4), np.uint32)
    for start in range(0, blocks, CHUNK):
        stop = min(start + CHUNK, blocks)
        block = np.arange(start, stop, dtype=np.uint64)
        words = philox4x32(
            (block & np.uint64(LOW_WORD), block >> np.uint64(32), *split(counter)), split(seed)
        )
        for column, word in enumerate(words):
            out[start:stop, column] = word
    return out.reshape(-1)[:count]


def philox4x32(
    counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]
) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 of 32-bit words held in np.uint64, which broadcast; four such words."""
    shift, low = np.uint64(32), np.uint64(LOW_WORD)
    m0, m1 = np.uint64(MULTIPLIER_0), np.uint64(MULTIPLIER_1)
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1 = (p1 >> shift) ^ c1 ^ k0, p1 & low
        c2, c3 = (p0 >> shift) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(KEY_STEP_0)) & low, (k1 + np.uint64(KEY_STEP_1)) & low
    return c0, c1, c2, c3


def split(number: int) -> tuple[np.uint64, np.uint64]:
    """The low and the high 32-bit word of `number`, modulo 2^64."""
    return np.uint64(number & LOW_WORD), np.uint64((number >> 32) & LOW_WORD)


def check_key(name: str, key: TensorType) -> None:
    """Raise DTypeError unless `key` is i64[2]."""
    if key != KEY:
        raise DTypeError(f"{name}: the key is {key}, not {KEY}")


random_bits = register(RandomBits())
uniform = register(Uniform())
