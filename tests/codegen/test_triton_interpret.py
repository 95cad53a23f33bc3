"""The strict interpreter: right values, and every planted bug found."""

import threading

import ml_dtypes
import numpy as np
import pytest

from lowgrad.errors import ArgumentError, KernelCheckError

pytest.importorskip("triton", reason="the interpreter is Triton's")

from lowgrad.codegen.triton.interpret import check_dead_lanes, interpret
from lowgrad.codegen.triton.load import load

pytestmark = pytest.mark.triton

HEADER = """\
import triton
import triton.language as tl


@triton.jit
"""


def kernel(text, name="kernel"):
    return load(HEADER + text, name)


def floats(*values):
    return np.array(values, np.float32)


COPY = """\
def kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    {load}
    {store}
"""
LOAD, LOAD_MASKED = "x = tl.load(x_ptr + i)", "x = tl.load(x_ptr + i, mask=i < 6)"
STORE, STORE_MASKED = "tl.store(out_ptr + i, x)", "tl.store(out_ptr + i, x, mask=i < 6)"


# --- Values ---


def test_a_masked_tail_is_copied():
    x, out = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)

    interpret(
        kernel(COPY.format(load=LOAD_MASKED, store=STORE_MASKED)), (2,), [x, out], {"BLOCK": 4}
    )

    np.testing.assert_array_equal(out, x)


BINARY = """\
def kernel(x_ptr, y_ptr, out_ptr):
    i = tl.arange(0, 64)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * tl.load(y_ptr + i) + 1.5)
"""


def test_bf16_arithmetic_is_that_of_bf16():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=64).astype(ml_dtypes.bfloat16) for _ in range(2))
    out = np.zeros(64, ml_dtypes.bfloat16)

    interpret(kernel(BINARY), (1,), [x, y, out], {})

    np.testing.assert_array_equal(out, x * y + np.asarray(1.5, ml_dtypes.bfloat16))


CAST = """\
def kernel(x_ptr, out_ptr):
    i = tl.arange(0, 256)
    x = tl.load(x_ptr + i)
    tl.store(out_ptr + i, x.to(out_ptr.dtype.element_ty))
"""


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e5m2", "float8_e4m3fn"])
def test_casts_round_to_nearest(name):
    x = np.random.default_rng(0).normal(size=256, scale=20).astype(np.float32)
    out = np.zeros(256, np.dtype(name))

    interpret(kernel(CAST), (1,), [x, out], {})

    np.testing.assert_array_equal(out, x.astype(name))


DOT = """\
def kernel(x_ptr, y_ptr, out_ptr):
    i, j = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + i * 16 + j)
    y = tl.load(y_ptr + i * 16 + j)
    tl.store(out_ptr + i * 16 + j, tl.dot(x, y))
"""


def test_bf16_dot_accumulates_in_float32():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(16, 16)).astype(ml_dtypes.bfloat16) for _ in range(2))
    out = np.zeros((16, 16), np.float32)

    interpret(kernel(DOT), (1,), [x, y, out], {})

    np.testing.assert_allclose(out, x.astype(np.float32) @ y.astype(np.float32), rtol=1e-5)


LOOP = """\
def kernel(out_ptr, n, scale, offset):
    total = 0.0
    for k in range(n):
        total += k * scale
    tl.store(out_ptr, total)
    tl.store(out_ptr + 1, offset)
"""


def test_scalars_are_passed_by_value_and_bound_a_loop():
    out = np.zeros(2, np.float64)

    interpret(kernel(LOOP), (1,), [out, 4, 0.5, np.int64(2**40)], {})

    np.testing.assert_array_equal(out, [3.0, 2.0**40])


CHOOSE = """\
def kernel(mask_ptr, x_ptr, out_ptr):
    i = tl.arange(0, 4)
    keep = tl.load(mask_ptr + i)
    tl.store(out_ptr + i, tl.where(keep, tl.load(x_ptr + i), 7))
    tl.store(mask_ptr + i, keep == 0)
"""


def test_bools_are_loaded_and_stored():
    keep = np.array([True, False, False, True])
    out = np.zeros(4, np.int64)

    interpret(kernel(CHOOSE), (1,), [keep, np.arange(4), out], {})

    np.testing.assert_array_equal(out, [0, 7, 7, 3])
    np.testing.assert_array_equal(keep, [False, True, True, False])


HELPERS = """\
def twice(x):
    return 2 * x

@triton.jit
def kernel(x_ptr, out_ptr):
    i = tl.arange(0, 4)
    x = tl.load(x_ptr + i)
    tl.store(out_ptr + i, tl.sigmoid(twice(x)) + tl.max(x, axis=0) + tl.cdiv(5, 2))
"""


def test_helpers_and_the_library_are_called():
    x, out = floats(1, 2, 3, 4), np.zeros(4, np.float32)

    interpret(kernel(HELPERS), (1,), [x, out], {})

    np.testing.assert_allclose(out, 1 / (1 + np.exp(-2 * x)) + 7, rtol=1e-6)


def test_a_reversed_array_is_reached_through_negative_offsets():
    base = np.arange(4, dtype=np.float32)
    out = np.zeros(4, np.float32)
    reverse = kernel(COPY.format(load="x = tl.load(x_ptr - i)", store=STORE))

    interpret(reverse, (1,), [base[::-1], out], {"BLOCK": 4})

    np.testing.assert_array_equal(out, base[::-1])


ATOMIC = """\
def kernel(x_ptr, out_ptr):
    i = tl.arange(0, 4)
    tl.atomic_add(out_ptr + i, tl.load(x_ptr + i), mask=i < {limit})
"""


def test_programs_may_add_atomically_to_one_place():
    out = np.zeros(3, np.int32)

    interpret(kernel(ATOMIC.format(limit=3)), (5,), [np.arange(4, dtype=np.int32), out], {})

    np.testing.assert_array_equal(out, [0, 5, 10])


# --- Planted bugs ---


def run_faulty(text, args, grid=(2,), **constants):
    with pytest.raises(KernelCheckError) as caught:
        interpret(kernel(text), grid, args, constants)
    return " ".join(str(caught.value).split())  # without its line breaks


def test_a_load_out_of_bounds_names_program_lanes_and_argument():
    out = np.zeros(8, np.float32)

    message = run_faulty(COPY.format(load=LOAD, store=STORE), [out[:6].copy(), out], BLOCK=4)

    assert "kernel: load of x_ptr out of bounds in 2 lanes (lanes 2 to 3)" in message
    assert "elements 6 to 7 of 6" in message
    assert "program (1, 0, 0)" in message
    assert ".py:8, in kernel" in message


def test_a_store_that_lost_its_mask_is_found():
    out = np.zeros(6, np.float32)

    message = run_faulty(COPY.format(load=LOAD_MASKED, store=STORE), [out, out.copy()], BLOCK=4)

    assert "store of out_ptr out of bounds" in message


def test_an_access_to_the_neighbour_in_memory_is_out_of_bounds():
    both = np.zeros(16, np.float32)

    message = run_faulty(COPY.format(load=LOAD, store=STORE), [both[:6], both[6:14]], BLOCK=4)

    assert "load of x_ptr out of bounds" in message


def test_an_atomic_out_of_bounds_is_found():
    message = run_faulty(ATOMIC.format(limit=4), [np.zeros(4, np.int32), np.zeros(3, np.int32)])

    assert "atomic of out_ptr out of bounds" in message


def test_two_programs_storing_to_one_place_is_a_race():
    text = COPY.format(load=LOAD, store="tl.store(out_ptr + i % 6, x)")

    message = run_faulty(text, [np.zeros(8, np.float32), np.zeros(6, np.float32)], BLOCK=4)

    assert "element 0 was stored by program (0, 0, 0) too" in message


@pytest.mark.parametrize(
    ("load", "store"),
    [
        ("x = tl.load(out_ptr + i - 1, mask=i > 0, other=0.0)", STORE),  # reads what was stored
        ("x = tl.load(out_ptr + (i + 1) % 8)", STORE),  # stores what was read
    ],
)
def test_loading_what_another_program_stores_is_a_race(load, store):
    x = np.zeros(8, np.float32)

    message = run_faulty(COPY.format(load=load, store=store), [x, np.zeros_like(x)], BLOCK=4)

    assert "of the same launch" in message


def test_races_are_seen_through_overlapping_arguments():
    x = np.zeros(9, np.float32)

    message = run_faulty(COPY.format(load=LOAD, store=STORE), [x[:8], x[1:]], BLOCK=4)

    assert "of the same launch" in message


def test_in_place_is_not_a_race():
    x = np.arange(8, dtype=np.float32)
    double = kernel(COPY.format(load=LOAD, store="tl.store(out_ptr + i, 2 * x)"))

    interpret(double, (2,), [x, x], {"BLOCK": 4})

    np.testing.assert_array_equal(x, 2.0 * np.arange(8))


def test_lanes_that_store_different_values_to_one_place_are_found():
    text = COPY.format(load=LOAD, store="tl.store(out_ptr + i // 2, x)")

    message = run_faulty(
        text, [np.arange(4, dtype=np.float32), np.zeros(2, np.float32)], grid=(1,), BLOCK=4
    )

    assert "lanes of one program store different values to element 0" in message


REDUCE = """\
def kernel(x_ptr, out_ptr):
    i = tl.arange(0, 8)
    x = tl.load(x_ptr + i, mask=i < 5{other})
    tl.store(out_ptr, {reduced})
"""


def test_dead_lanes_in_a_sum_poison_it():
    x, out = np.ones(5, np.float32), np.zeros(1, np.float32)

    interpret(kernel(REDUCE.format(other="", reduced="tl.sum(x, axis=0)")), (1,), [x, out], {})

    assert np.isnan(out[0])


@pytest.mark.parametrize("reduced", ["tl.sum(x, axis=0)", "tl.max(x, axis=0)", "tl.min(x, axis=0)"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dead_lanes_in_a_reduction_change_its_value(reduced, dtype):
    x, out = np.ones(5, dtype), np.zeros(1, dtype)

    with pytest.raises(KernelCheckError, match="values of out_ptr depend on dead lanes"):
        check_dead_lanes(kernel(REDUCE.format(other="", reduced=reduced)), (1,), [x, out], {})


def test_dead_integer_lanes_change_the_value_too():
    x, out = np.ones(5, np.int8), np.zeros(1, np.int32)
    text = REDUCE.format(other="", reduced="tl.max(x, axis=0)")

    with pytest.raises(KernelCheckError, match="values of out_ptr depend on dead lanes"):
        check_dead_lanes(kernel(text), (1,), [x, out], {})


def test_dead_lanes_with_the_identity_change_nothing():
    x, out = np.ones(5, np.float32), np.zeros(1, np.float32)
    text = REDUCE.format(other=", other=0.0", reduced="tl.sum(x, axis=0)")

    check_dead_lanes(kernel(text), (1,), [x, out], {})

    assert out[0] == 0  # what it held before


def test_int32_overflow_is_found():
    text = "def kernel(out_ptr, n):\n    tl.store(out_ptr, n * 65536)\n"

    message = run_faulty(text, [np.zeros(1, np.int64), 65536])

    assert "int32 overflow detected for operation mul" in message


def test_unsigned_numbers_may_wrap_around():
    text = "def kernel(out_ptr, n):\n    tl.store(out_ptr, n * 2654435761)\n"
    out = np.zeros(1, np.uint32)

    interpret(kernel(text), (1,), [out, np.uint32(5)], {})

    assert out[0] == 5 * 2654435761 % 2**32


def test_a_device_assert_is_kept():
    text = "def kernel(n):\n    tl.device_assert(n < 3, 'n is too large')\n"

    assert "n is too large" in run_faulty(text, [5])


def test_a_store_to_a_read_only_array_is_found():
    x = np.zeros(8, np.float32)
    x.flags.writeable = False

    message = run_faulty(COPY.format(load=LOAD, store=STORE), [x.copy(), x], BLOCK=4)

    assert "store to out_ptr, which is read-only" in message


def test_a_misaligned_access_is_found():
    text = """\
def kernel(x_ptr, out_ptr):
    wide = (x_ptr + 1).to(tl.pointer_type(tl.float32))
    tl.store(out_ptr, tl.load(wide))
"""

    message = run_faulty(text, [np.zeros(8, np.float16), np.zeros(1, np.float32)])

    assert "load of x_ptr is not aligned to 4 bytes" in message


def test_an_unsupported_operation_is_a_typed_error():
    message = run_faulty("def kernel(x_ptr):\n    tl.store(x_ptr, missing)\n", [floats(0)])

    assert "NameError" in message


def test_wrong_arguments_are_named():
    copy = kernel(COPY.format(load=LOAD, store=STORE))

    with pytest.raises(ArgumentError, match="takes 2 values for x_ptr, out_ptr, got 1"):
        interpret(copy, (1,), [floats(0)], {"BLOCK": 4})
    with pytest.raises(ArgumentError, match="no argument WIDTH"):
        interpret(copy, (1,), [floats(0), floats(0)], {"WIDTH": 4})


# --- The process afterwards ---


def test_the_language_is_restored_also_after_an_error():
    import triton.language as tl
    from triton.runtime import interpreter

    before = dict(vars(tl)), dict(vars(tl.core.tensor)), dict(vars(interpreter))

    interpret(kernel(HELPERS), (1,), [np.zeros(4, np.float32), np.zeros(4, np.float32)], {})
    run_faulty(COPY.format(load=LOAD, store=STORE), [floats(0), floats(0)], BLOCK=4)

    assert (dict(vars(tl)), dict(vars(tl.core.tensor)), dict(vars(interpreter))) == before


def test_threads_take_turns():
    outs = [np.zeros(6, np.float32) for _ in range(4)]
    copy = kernel(COPY.format(load=LOAD_MASKED, store=STORE_MASKED))

    def run(out):
        interpret(copy, (2,), [np.ones(6, np.float32), out], {"BLOCK": 4})

    threads = [threading.Thread(target=run, args=(out,)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all((out == 1).all() for out in outs)
