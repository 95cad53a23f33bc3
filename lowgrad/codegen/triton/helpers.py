"""Functions that generated kernels call, as text: what `triton.language` lacks, or has otherwise.

A kernel's module holds those that it calls, so that it runs and is read alone.
"""

from __future__ import annotations

import re

HELPERS: dict[str, str] = {}


def _helper(text: str) -> None:
    name = text.partition("def ")[2].partition("(")[0]
    HELPERS[name] = "@triton.jit\n" + text.strip() + "\n"


_helper(
    """
def _max(x, axis: tl.constexpr, keep_dims: tl.constexpr = False):
    # NaN if any element is: tl.max drops it.
    is_nan = tl.max((x != x).to(tl.int32), axis, keep_dims=keep_dims) != 0
    return tl.where(is_nan, float("nan"), tl.max(x, axis, keep_dims=keep_dims))
"""
)
_helper(
    """
def _min(x, axis: tl.constexpr, keep_dims: tl.constexpr = False):
    # NaN if any element is: tl.min drops it.
    is_nan = tl.max((x != x).to(tl.int32), axis, keep_dims=keep_dims) != 0
    return tl.where(is_nan, float("nan"), tl.min(x, axis, keep_dims=keep_dims))
"""
)
_helper(
    """
def _min_of(x, y):
    return min(x, y)
"""
)
_helper(
    """
def _max_of(x, y):
    return max(x, y)
"""
)
_helper(
    """
def _half(x, which: tl.constexpr):
    # Of a product's sums a thread has both halves in registers: this moves nothing.
    halves = tl.reshape(x, [x.shape[0], 2, x.shape[1] // 2])
    low, high = tl.split(tl.permute(halves, (0, 2, 1)))
    return low if which == 0 else high
"""
)
_helper(
    """
def _product(a, b):
    return a * b
"""
)
_helper(
    """
def _log1p(x):
    # log(u) errs by as much as u - 1 differs from x, which the quotient undoes.
    u = 1 + x
    log1p = tl.log(u) * (x / (u - 1))
    return tl.where((u == 1) | (x == float("inf")), x, log1p)
"""
)
_helper(
    """
def _expm1(x):
    # u - 1 errs by as much as log(u) differs from x, which the quotient undoes.
    u = tl.exp(x)
    expm1 = (u - 1) * (x / tl.log(u))
    expm1 = tl.where((u == float("inf")) | (u - 1 == -1), u - 1, expm1)
    return tl.where(u == 1, x, expm1)
"""
)
_helper(
    """
def _tanh(x):
    # Near 0, 1 - 2 / (exp(2x) + 1) cancels: Cephes' tanhf has this polynomial instead.
    s = x * x
    p = (((-5.70498872745e-3 * s + 2.06390887954e-2) * s - 5.37397155531e-2) * s
         + 1.33314422036e-1) * s - 3.33332819422e-1
    a = tl.abs(x)
    far = 1 - 2 / (tl.exp(2 * a) + 1)
    return tl.where(a < 0.625, x + x * s * p, tl.where(x < 0, -far, far))
"""
)
_helper(
    """
def _tanh64(x):
    e = _expm1(-2 * tl.abs(x))
    far = -e / (e + 2)
    return tl.where(x < 0, -far, far)
"""
)
_helper(
    """
def _sigmoid(x):
    # Only exp of what is not positive, so nothing overflows.
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1 + e)
"""
)
_helper(
    """
def _round(x, BIG: tl.constexpr):
    # Adding 2^23 (f64: 2^52) leaves no bits for a fraction; halves go to the even one.
    a = tl.abs(x)
    r = tl.where(a < BIG, (a + BIG) - BIG, a)
    return tl.where(x < 0, -r, r)
"""
)
_helper(
    """
def _floordiv(a, b):
    # Triton's // and % round to zero.
    q = a // b
    r = a - q * b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
"""
)
_helper(
    """
def _mod(a, b):
    # Triton's % has the sign of a, ours that of b.
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
"""
)
_helper(
    """
def _floordiv_float(a, b):
    # As NumPy: the division is done after the remainder, which makes it exact but for rounding.
    q = (a - _mod(a, b)) / b
    whole = tl.floor(q)
    whole = tl.where(q - whole > 0.5, whole + 1, whole)
    return tl.where(b == 0, a / b, whole)
"""
)
_helper(
    """
def _pow(a, b):
    # In f64, since exp multiplies the error of the logarithm by the size of the exponent.
    x, y = a.to(tl.float64), b.to(tl.float64)
    magnitude = tl.where(tl.abs(x) == 1, 1.0, tl.exp(y * tl.log(tl.abs(x))))
    is_odd = tl.floor(y * 0.5) * 2 != y
    negative = tl.where(is_odd, -magnitude, magnitude)
    is_whole = tl.floor(y) == y
    power = tl.where(x < 0, tl.where(is_whole, negative, float("nan")), magnitude)
    power = tl.where((x != x) | (y != y), float("nan"), power)
    return tl.where((y == 0) | (x == 1), 1.0, power).to(a.dtype)
"""
)
_helper(
    """
def _pow_int(a, b, BITS: tl.constexpr):
    # By squaring; what overflows wraps.
    base = a
    power = a * 0 + 1
    left = tl.maximum(b, 0)
    for _ in range(BITS):
        odd = tl.mul(power, base, sanitize_overflow=False)
        power = tl.where(left & 1 == 1, odd, power)
        base = tl.mul(base, base, sanitize_overflow=False)
        left = left >> 1
    # A negative power truncates 1 / a^n: 0 but for 1 and -1.
    inverse = tl.where((a == 1) | ((a == -1) & (b & 1 == 0)), 1, tl.where(a == -1, -1, 0))
    return tl.where(b < 0, inverse.to(a.dtype), power)
"""
)
_helper(
    """
def _pow_unsigned(a, b, BITS: tl.constexpr):
    # By squaring; what overflows wraps.
    base = a
    power = a * 0 + 1
    for _ in range(BITS):
        odd = tl.mul(power, base, sanitize_overflow=False)
        power = tl.where(b & 1 == 1, odd, power)
        base = tl.mul(base, base, sanitize_overflow=False)
        b = b >> 1
    return power
"""
)
_helper(
    """
def _sort_key(x):
    # An integer that compares as x does; zeros are one, NaNs another, the largest.
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(x != x, 0x7FFFFFFF, bits)
"""
)
_helper(
    """
def _sort_key64(x):
    # An integer that compares as x does; zeros are one, NaNs another, the largest.
    bits = tl.where(x == 0, 0.0, x).to(tl.int64, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)
    return tl.where(x != x, 0x7FFFFFFFFFFFFFFF, bits)
"""
)
_helper(
    """
def _random_bits(seed, counter, place):
    # Philox4x32-10: element `place` is word place % 4 of block place // 4.
    block = place // 4
    word = place % 4
    low = (block & 0xFFFFFFFF).to(tl.uint32)
    high = (block >> 32).to(tl.uint32)
    counter_low = (counter & 0xFFFFFFFF).to(tl.uint32)
    counter_high = ((counter >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, counter_low, counter_high)
    return tl.where(word == 0, w0, tl.where(word == 1, w1, tl.where(word == 2, w2, w3)))
"""
)
_helper(
    """
def _uniform(seed, counter, place, BITS: tl.constexpr):
    # As many bits as the type is precise, so that nothing rounds up to 1.
    bits = _random_bits(seed, counter, place) >> (32 - BITS)
    return bits.to(tl.float32) * (1.0 / (1 << BITS))
"""
)
_helper(
    """
def _uniform64(seed, counter, place):
    high = _random_bits(seed, counter, place * 2) >> 5
    low = _random_bits(seed, counter, place * 2 + 1) >> 6
    return (high.to(tl.float64) * 67108864.0 + low.to(tl.float64)) * (1.0 / 9007199254740992)
"""
)


def closure(source: str) -> list[str]:
    """The helpers that `source` calls, and those that they call; callees first."""
    ordered: list[str] = []

    def visit(text: str, own: str) -> None:
        for name, helper in HELPERS.items():
            if name not in (own, *ordered) and re.search(rf"(?<![\w.]){name}\b", text):
                visit(helper, name)
                ordered.append(name)

    visit(source, "")
    return ordered
