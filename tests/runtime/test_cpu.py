"""The CPU executor means what the interpreter means, in the memory it planned."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from passes import steps
from strategies import arrays_for, graphs

from lowgrad.errors import LowgradError, VerifyError
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY, Array
from lowgrad.ir.types import TensorType, bfloat16, float32
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.runtime.arena import Placement, Span, check
from lowgrad.runtime.cpu import chunks
from lowgrad.runtime.cpu.program import Executable, build
from lowgrad.runtime.memory import plan


def compiled(graph: Graph, fuse: bool) -> tuple[Graph, Executable]:
    final = list(run_pipeline(graph, fuse=fuse).values())[-1]
    return final, build(final, plan(final))


def owned(arrays):
    return [np.array(a, order="C") for a in arrays]


def same(got, expected, exact: bool = False) -> None:
    for a, b in zip(got, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if exact:
            assert a.tobytes() == b.tobytes()
        else:
            wide = [x.astype(np.float64) if x.dtype.itemsize == 2 else x for x in (a, b)]
            tolerance = 2e-2 if a.dtype.itemsize == 2 and a.dtype.kind in "Vf" else 2e-5
            np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[False, True], ids=["whole", "in chunks"])
def tiny_chunks(request, monkeypatch):
    """With True, every body that can be is cut into chunks of a row or two."""
    if request.param:
        monkeypatch.setattr(chunks, "WORTH_BYTES", 0)
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 24)
        monkeypatch.setattr(chunks, "PARALLEL_BYTES", 64)
    return request.param


def test_a_reshape_that_copies_has_room_for_what_it_widens(tiny_chunks):
    builder = Builder()
    x = builder.input(TensorType((2,), bfloat16), "x")
    part = x.call("slice", starts=(0,), stops=(1,), steps=(1,)).call("reshape", shape=(1, 1))
    graph = builder.graph((part.value, (-x).value))
    arrays = arrays_for(graph)

    same(build(graph, plan(graph))(owned(arrays)), interpret(graph, *arrays))


def test_a_reshape_of_a_scalar_that_copies():
    builder = Builder()
    x = builder.input(TensorType((), float32), "x")
    line = x.call("flip", dims=()).call("reshape", shape=(1,))
    graph = builder.graph((line.value, (-x).value))
    arrays = arrays_for(graph)

    same(build(graph, plan(graph))(owned(arrays)), interpret(graph, *arrays))


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_graphs_run_as_interpreted(fuse, tiny_chunks, data):
    graph = data.draw(graphs())
    arrays = arrays_for(graph)
    final, run = compiled(graph, fuse)
    try:
        expected = interpret(final, *arrays)
    except LowgradError as error:
        with pytest.raises(type(error)):
            run(owned(arrays))
        return

    first = run(owned(arrays))
    kept = [np.array(a) for a in first]
    run.arena[...] = 0x7F  # whatever was left there must not matter
    second = run(owned(arrays))

    same(first, expected)
    same(second, kept, exact=True)
    same(first, kept, exact=True)


def spans_of(found) -> tuple[list[Span], Placement]:
    """What shares the memory that is held; behind it are the results, one after the other."""
    held = [b for b in found.buffers if b.first <= b.last and b.offset < found.held_bytes]
    spans = [Span(b.name, b.nbytes, b.first, b.last) for b in held]
    offsets = tuple(b.offset for b in held)
    return spans, Placement(offsets, found.held_bytes, found.lower_bound_bytes)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(max_nodes=20))
def test_no_two_live_buffers_share_a_byte(graph):
    final = list(run_pipeline(graph).values())[-1]

    found = plan(final)

    check(*spans_of(found))
    results = [b for b in found.buffers if b.offset >= found.held_bytes]
    assert sum(b.nbytes for b in results) == found.arena_bytes - found.held_bytes
    assert found.peak_bytes == found.state_bytes + found.argument_bytes + found.arena_bytes
    assert found.arena_bytes >= found.lower_bound_bytes


def step_graphs() -> dict[str, Graph]:
    small = steps.GptSize()
    return {
        "classifier": steps.classifier(),
        "gpt": steps.gpt(small),
        "gpt, clipped": steps.gpt(small, clip=1.0),
    }


@pytest.mark.parametrize("name", ["classifier", "gpt", "gpt, clipped"])
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
def test_training_steps_run_as_interpreted(name, fuse, tiny_chunks):
    graph = step_graphs()[name]
    arrays = steps.arrays_for(graph)
    final, run = compiled(graph, fuse)

    state = owned(arrays)
    got = run(state)

    same(got, interpret(final, *arrays))
    for output, position in final.aliases.items():
        assert got[output] is state[position]


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
def test_five_steps_in_planned_memory_are_five_interpreted_steps(fuse):
    graph = steps.classifier()
    final, run = compiled(graph, fuse)
    state, reference = owned(steps.arrays_for(graph)), owned(steps.arrays_for(graph))
    losses = []
    for _ in range(5):
        run.arena[...] = 0xFF
        losses.append(run(state))
        expected = interpret(final, *reference)
        for output, position in final.aliases.items():
            reference[position] = np.array(expected[output])
        same(losses[-1], expected)

    assert len({r[0].tobytes() for r in losses}) == 5


def traced_peak(run: Executable, state: list[Array]) -> int:
    """The bytes that a call allocates; the least of some, since threads keep what they need."""
    peaks = []
    for _ in range(4):
        tracemalloc.start()
        run(state)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)


def test_a_step_allocates_nothing_but_its_results():
    final, run = compiled(steps.classifier(), fuse=True)
    state = owned(steps.arrays_for(final))
    peak = traced_peak(run, state)

    # NumPy's own buffer for converting operands holds 8,192 elements; a weight here has 100,352.
    assert peak < 80 * 1024


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
def test_a_transformers_step_allocates_nothing_but_its_results(fuse):
    """Heads are put side by side again, rows looked up and gradients scattered: in the arena."""
    size = steps.GptSize(batch=4, length=64, width=128, heads=4, layers=4, vocab=2048)
    final, run = compiled(steps.gpt(size), fuse)
    state = owned(steps.arrays_for(final))
    peak = traced_peak(run, state)

    # Copies of 2^14 numbers and their indices; an embedding has 2^18, an activation 2^15 each.
    assert peak < 256 * 1024


def swap_graph() -> Graph:
    b = Builder()
    x, y = (b.input(TensorType((3,), float32), n) for n in "xy")
    doubled = y * 2.0
    return b.graph((y.value, x.value, doubled.value), {0: 0, 1: 1})


def test_swapped_state_is_swapped():
    run = compiled(swap_graph(), fuse=True)[1]
    x, y = np.float32([1, 2, 3]), np.float32([4, 5, 6])

    _, _, doubled = run([x, y])

    np.testing.assert_array_equal(x, [4, 5, 6])
    np.testing.assert_array_equal(y, [1, 2, 3])
    np.testing.assert_array_equal(doubled, [8, 10, 12])


def late_reader() -> Graph:
    """A region that updates `old` row by row, and reads it again for what needs all rows."""
    b = Builder()
    x, old = (b.input(TensorType((6, 3), float32), n) for n in ("x", "old"))
    centred = old + x.call("sum", dims=(0,)).call("expand", shape=(6, 3))
    new = old * 2.0 + x
    body = b.graph((centred.value, new.value), name="body")
    inputs = tuple(Value(v.type, v.hint) for v in body.inputs)
    outputs = tuple(Value(v.type) for v in body.outputs)
    node = Node(REGISTRY["fused"], inputs, {"body": body, "kind": "rows"}, outputs)
    return Graph(inputs, (node,), outputs, {1: 1})


def test_state_is_not_overwritten_before_its_last_reader(tiny_chunks):
    graph = late_reader()
    arrays = arrays_for(graph, special=False)

    got = build(graph, plan(graph))(owned(arrays))

    same(got, interpret(graph, *arrays))


def test_a_single_element_can_be_flipped_and_sliced():
    b = Builder()
    x = b.input(TensorType((), float32), "x")
    turned = x.call("neg").call("flip", dims=()).call("slice", starts=(), stops=(), steps=())
    graph = b.graph((turned.call("exp").value,))

    (got,) = compiled(graph, fuse=True)[1]([np.float32([1.0]).reshape(())])

    np.testing.assert_allclose(got, np.exp(-1.0), rtol=1e-6)


def test_a_value_takes_over_the_bytes_of_a_dying_operand():
    b = Builder()
    x = b.input(TensorType((64, 64), float32), "x")
    chain = x
    for _ in range(4):
        chain = chain.call("exp").call("neg")
    graph = b.graph((chain.value,))

    found = plan(graph)

    assert found.held_bytes == x.type.nbytes
    same(build(graph, found)(arrays_for(graph)), interpret(graph, *arrays_for(graph)))


def test_a_flipped_operand_keeps_its_bytes():
    b = Builder()
    x = b.input(TensorType((64, 64), float32), "x")
    doubled = x * 2.0
    total = doubled + doubled.call("flip", dims=(0,))
    graph = b.graph((total.value,))
    arrays = arrays_for(graph, special=False)

    found = plan(graph)

    assert total.value not in found.reused
    same(build(graph, found)(arrays), interpret(graph, *arrays))


def test_a_planned_overlap_changes_results():
    """The planted bug: every buffer at offset 0."""
    final, _ = compiled(steps.classifier(), fuse=False)
    found = plan(final)
    broken = replace(found, offsets=dict.fromkeys(found.offsets, 0))
    arrays = steps.arrays_for(final)

    with pytest.raises(AssertionError):
        same(build(final, broken)(owned(arrays)), interpret(final, *arrays))


def test_an_overlap_is_named():
    spans = [Span("a", 64, 0, 3), Span("b", 64, 2, 4)]

    with pytest.raises(VerifyError, match="b and a live at the same time"):
        check(spans, Placement((0, 0), 128, 128))
