"""Index expressions mean what Python integers mean, for every value of their symbols."""

import itertools
import random

import pytest

from lowgrad.ir.index import Index, as_index, flatten, holds, symbol, unflatten

SIZES = {"a": 3, "b": 4, "c": 5}


def random_expression(rng: random.Random, depth: int):
    """An expression twice: as an Index, and as a function of the symbols' values."""
    if depth == 0:
        name = rng.choice([*SIZES])
        return symbol(name, SIZES[name]), lambda env: env[name]
    index, value = random_expression(rng, depth - 1)
    other, other_value = random_expression(rng, rng.randrange(depth))
    n, k = rng.randint(1, 13), rng.randint(-9, 9)
    return rng.choice(
        [
            (index + other, lambda env: value(env) + other_value(env)),
            (index - other, lambda env: value(env) - other_value(env)),
            (index * k + other, lambda env: value(env) * k + other_value(env)),
            (k - index, lambda env: k - value(env)),
            (index // n, lambda env: value(env) // n),
            (index % n, lambda env: value(env) % n),
            (index // n * n + index % n, value),
        ]
    )


def environments():
    for values in itertools.product(*(range(n) for n in SIZES.values())):
        yield dict(zip(SIZES, values, strict=True))


def truncating(text: str):
    """`text` as Triton evaluates it: // and % round to zero."""

    class Int(int):
        def __floordiv__(self, other):
            return Int(abs(self) // other * (1 if self >= 0 else -1))

        def __mod__(self, other):
            return Int(self - other * (self // other))

        def __add__(self, other):
            return Int(int(self) + other)

        def __sub__(self, other):
            return Int(int(self) - other)

        def __mul__(self, other):
            return Int(int(self) * other)

        def __neg__(self):
            return Int(-int(self))

    return lambda env: eval(text, {k: Int(v) for k, v in env.items()})


@pytest.mark.parametrize("seed", range(150))
def test_an_expression_and_its_text_mean_what_python_means(seed):
    rng = random.Random(seed)
    index, value = random_expression(rng, rng.randint(1, 5))
    index = as_index(index)
    in_triton = truncating(str(index))
    low, high = index.bounds
    seen = set()

    for env in environments():
        want = value(env)
        seen.add(want)
        assert in_triton(env) == want, f"{index} at {env}"

    assert low <= min(seen)
    assert max(seen) <= high
    assert index.magnitude >= max(abs(v) for v in seen)
    if (known := holds(index, 0, 4)) is not None:
        assert all((0 <= v < 4) == known for v in seen)


def test_divisions_simplify_where_ranges_allow():
    a, b, c = symbol("a", 7), symbol("b", 4), symbol("c", 5)

    assert (a * 4 + b) // 4 == a
    assert (a * 4 + b) % 4 == b
    assert (a * 20 + b * 5 + c) // 5 % 4 == b
    assert (a * 8 + b * 2 + 1) // 2 == a * 4 + b
    assert str((a * 6) // 4) == "a * 3 // 2" or str((a * 6) // 4) == "(a * 3) // 2"


@pytest.mark.parametrize("shape", [(2, 3, 4), (24,), (1, 24, 1), (4, 6), (2, 2, 2, 3)])
@pytest.mark.parametrize("other", [(3, 8), (24,), (2, 3, 4)])
def test_reshaping_back_and_forth_is_nothing(shape, other):
    offs = symbol("offs", 24)

    assert flatten(unflatten(offs, shape), shape) == offs
    assert flatten(unflatten(flatten(unflatten(offs, shape), shape), other), other) == offs


def test_permuting_twice_is_nothing():
    offs = symbol("offs", 24)
    i, j, k = unflatten(offs, (2, 3, 4))

    assert flatten((i, j, k), (2, 3, 4)) == offs
    moved = unflatten(flatten((k, i, j), (4, 2, 3)), (4, 2, 3))
    assert flatten((moved[1], moved[2], moved[0]), (2, 3, 4)) == offs


def test_a_symbol_of_size_one_is_zero():
    assert symbol("a", 1) == as_index(0)
    assert isinstance(symbol("a", 1), Index)


@pytest.mark.parametrize("value", [2**31 - 1, 2**31, 2**31 + 1])
def test_magnitude_sees_folded_constants(value):
    a = symbol("a", 2)

    assert ((a + value) - value).magnitude <= 2
    assert (a + value - 5).magnitude >= value - 5
    assert (a * value).magnitude >= value
