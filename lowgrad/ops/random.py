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

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.slicing import Axis, Cut, Slicing
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

    def vjp(self, g: Any, out: Any, *inputs: Any, **attrs: Any) -> tuple[None, ...]:
        return (None,) * len(inputs)


class Whole(Random):
    """All of the numbers. `window` is the op that makes a part of them."""

    window: ClassVar[str]

    def slicing(self, axis: Axis, **attrs: Any) -> Slicing | None:
        if not axis.place.is_result:
            return None
        dim = axis.place.dim
        return Slicing((None,), (dim,)) if axis.divides(axis.outs[0].shape[dim]) else None

    def cut(self, to: Cut, key: Tracer, **attrs: Any) -> Tracer:
        (dim,) = to.dims
        assert dim is not None, "every number has a place"
        attrs |= {"shape": to.outs[0].shape, "dim": dim, "size": to.full[0].shape[dim]}
        part: Tracer = key.call(self.window, to.first(), **attrs)
        return part


class RandomBits(Whole):
    """32 random bits in each i32."""

    name = "random_bits"
    window = "random_bits_window"

    def infer(self, key: TensorType, *, shape: Shape, offset: int) -> TensorType:
        check_key(self.name, key)
        return TensorType(shape, int32)

    def evaluate(self, key: Array, *, shape: Shape, offset: int) -> Array:
        return random_words(math.prod(shape), key, offset).view(np.int32).reshape(shape)


class Uniform(Whole):
    """Uniform in [0, 1), f16, bf16, f32 or f64: UNIFORM_BITS of the element's word, scaled.

    f64's element i has words 2 i and 2 i + 1 to itself. f16 and bf16 are coarse: compare f32 ones
    with a probability, whatever the dtype of the data.
    """

    name = "uniform"
    window = "uniform_window"

    def infer(self, key: TensorType, *, shape: Shape, dtype: DType, offset: int) -> TensorType:
        check_key(self.name, key)
        if dtype not in UNIFORM_BITS:
            raise DTypeError(f"uniform: makes floats, not {dtype.name}")
        return TensorType(shape, dtype)

    def evaluate(self, key: Array, *, shape: Shape, dtype: DType, offset: int) -> Array:
        words = random_words(math.prod(shape) * words_of(dtype), key, offset)
        return unit_interval(words, dtype).reshape(shape)


class Window(Random):
    """A part of the numbers that the op of all of them makes, the same ones.

    Along `dim`, of `size` in the whole array, it is shape[dim] from `start`, i64[], on.
    """


class RandomBitsWindow(Window):
    """A part of random_bits."""

    name = "random_bits_window"

    def infer(
        self, key: TensorType, start: TensorType, *, shape: Shape, offset: int, dim: int, size: int
    ) -> TensorType:
        _check_window(self.name, key, start, shape, dim, size)
        return TensorType(shape, int32)

    def evaluate(
        self, key: Array, start: Array, *, shape: Shape, offset: int, dim: int, size: int
    ) -> Array:
        return _window_words(key, int(start), shape, offset, dim, size, 1).view(np.int32)


class UniformWindow(Window):
    """A part of uniform."""

    name = "uniform_window"

    def infer(
        self,
        key: TensorType,
        start: TensorType,
        *,
        shape: Shape,
        dtype: DType,
        offset: int,
        dim: int,
        size: int,
    ) -> TensorType:
        _check_window(self.name, key, start, shape, dim, size)
        return uniform.infer(key, shape=shape, dtype=dtype, offset=offset)

    def evaluate(
        self,
        key: Array,
        start: Array,
        *,
        shape: Shape,
        dtype: DType,
        offset: int,
        dim: int,
        size: int,
    ) -> Array:
        words = _window_words(key, int(start), shape, offset, dim, size, words_of(dtype))
        return unit_interval(words.reshape(-1), dtype).reshape(shape)


def _check_window(
    name: str, key: TensorType, start: TensorType, shape: Shape, dim: int, size: int
) -> None:
    check_key(name, key)
    if start != TensorType((), int64):
        raise DTypeError(f"{name}: the start is {start}, not i64[]")
    if not (0 <= dim < len(shape) and shape[dim] <= size):
        raise ShapeError(f"{name}: {shape} is no part of an array of {size} along dim {dim}")


def _window_words(
    key: Array, start: int, shape: Shape, offset: int, dim: int, size: int, each: int
) -> npt.NDArray[np.uint32]:
    """The words of a window, `each` of them for an element."""
    outer, inner = math.prod(shape[:dim]), math.prod(shape[dim + 1 :]) * each
    out = np.empty((outer, shape[dim] * inner), np.uint32)
    for row in range(outer):
        first = (row * size + start) * inner
        out[row] = random_words(shape[dim] * inner, key, offset, first)
    return out.reshape(*shape[:-1], shape[-1] * each)


def words_of(dtype: DType) -> int:
    """How many words a uniform number of `dtype` takes."""
    return 2 if dtype is float64 else 1


def unit_interval(words: npt.NDArray[np.uint32], dtype: DType) -> Array:
    """`words` as numbers in [0, 1) of `dtype`, wide."""
    if dtype is float64:
        pairs = words.reshape(-1, 2)
        low_bits = UNIFORM_BITS[float64] - F64_HIGH_BITS
        high = pairs[:, 0] >> np.uint32(32 - F64_HIGH_BITS)
        low = pairs[:, 1] >> np.uint32(32 - low_bits)
        return (high * 2.0**low_bits + low) * 2.0**-53
    bits = UNIFORM_BITS[dtype]
    return (words >> np.uint32(32 - bits)).astype(np.float32) * np.float32(2.0**-bits)


def random_words(count: int, key: Array, offset: int, first: int = 0) -> npt.NDArray[np.uint32]:
    """`count` words, from number `first` on, of the stream at (seed, counter + `offset`)."""
    seed, counter = int(key[0]), int(key[1]) + offset
    first_block, skipped = divmod(first, 4)
    blocks = -(-(skipped + count) // 4)
    out = np.empty((blocks, 4), np.uint32)
    for start in range(0, blocks, CHUNK):
        stop = min(start + CHUNK, blocks)
        block = np.arange(first_block + start, first_block + stop, dtype=np.uint64)
        words = philox4x32(
            (block & np.uint64(LOW_WORD), block >> np.uint64(32), *split(counter)), split(seed)
        )
        for column, word in enumerate(words):
            out[start:stop, column] = word
    return out.reshape(-1)[skipped : skipped + count]


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
random_bits_window = register(RandomBitsWindow())
uniform_window = register(UniformWindow())
