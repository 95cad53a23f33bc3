"""Every facet of every op: present or absent with a reason, and the facets agree.

The oracles: float64, slopes by central differences, and torch where it has the op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from samples import NEEDS_RANK, NO_TORCH, SAMPLES, TORCH, Sample

from lowgrad import ops  # noqa: F401  (fills the registry)
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY, Array, Op, evaluate, outputs_of
from lowgrad.ir.tile import FUNCTIONS, Block, Tile
from lowgrad.ir.types import bfloat16, bool_, float16, float32, float64
from lowgrad.passes.autodiff import gradients

FACETS = ("infer", "evaluate", "vjp", "emit")
FLOATS = (float64, float32, float16, bfloat16)

# Regions and loops have no meaning of their own: their bodies' ops are tested here, and the passes
# that make them in their own tests.
NOT_SAMPLED = {"region", "loop"}
OPS = {name: op for name, op in REGISTRY.items() if op.family not in NOT_SAMPLED}

every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


def every_sample(wanted: Callable[[Op, Sample], bool] = lambda op, sample: True) -> Any:
    """Parametrise over the samples of all ops that are `wanted`."""
    rows = [
        pytest.param(op, sample, id=f"{name} {sample}")
        for name, op in OPS.items()
        for sample in SAMPLES.get(name, ())
        if wanted(op, sample)
    ]
    return pytest.mark.parametrize(("op", "sample"), rows)


def flows(op: Op, sample: Sample) -> bool:
    """Whether a gradient flows from a float result to a float input."""
    reads = any(t.dtype.is_floating_point for t in sample.inputs)
    types = outputs_of(op, sample.inputs, sample.attrs)
    return reads and any(t.dtype.is_floating_point for t in types)


def has_slope(op: Op, sample: Sample) -> bool:
    return sample.slope and flows(op, sample)


def has_torch(op: Op, sample: Sample) -> bool:
    return op.name in TORCH


def is_emitted(op: Op, sample: Sample) -> bool:
    return op.family == "pointwise" and "emit" not in op.absent


# --- The table is complete ---------------------------------------------------------------------


@every_op
def test_a_facet_is_present_or_absent_with_a_reason(op):
    for facet in FACETS:
        is_present = getattr(type(op), facet) is not getattr(Op, facet)

        assert is_present != (facet in op.absent), f"{op.name}.{facet}: present={is_present}"
    assert all(len(reason.split()) > 3 for reason in op.absent.values())


@every_op
def test_an_op_says_what_it_is(op):
    assert type(op).__doc__, f"{op.name} has no docstring"
    assert op.family, f"{op.name} has no family"


@every_op
def test_an_op_has_samples_of_size_and_rank_zero(op):
    samples = SAMPLES.get(op.name, [])
    types = [[*s.inputs, *outputs_of(op, s.inputs, s.attrs)] for s in samples]

    assert any(0 in t.shape for ts in types for t in ts), f"{op.name}: no sample of size 0"
    is_scalar = any(not t.shape for ts in types for t in ts)
    assert is_scalar != (op.name in NEEDS_RANK), f"{op.name}: rank 0: {is_scalar}"


def test_tables_name_ops_only():
    assert (SAMPLES.keys() | TORCH.keys() | NO_TORCH.keys() | NEEDS_RANK.keys()) <= OPS.keys()


@every_op
def test_an_op_has_an_oracle_or_a_reason(op):
    assert (op.name in TORCH) != (op.name in NO_TORCH), f"{op.name}: torch, or why not"


# --- infer, evaluate, emit ---------------------------------------------------------------------


@every_sample()
def test_evaluate_gives_the_inferred_types(op, sample):
    for dtype in FLOATS:
        typed = sample.with_float(dtype)
        types = outputs_of(op, typed.inputs, typed.attrs)
        arrays = [a if op.moves_data else a.astype(t.dtype.wide) for a, t in inputs_of(typed)]

        results = as_tuple(op.evaluate(*arrays, **typed.attrs))

        assert [np.shape(r) for r in results] == [t.shape for t in types]
        for result, type_ in zip(map(np.asarray, results), types, strict=True):
            is_wide = result.dtype == type_.dtype.wide and not op.moves_data
            assert is_wide or result.dtype == type_.dtype.numpy, f"{type_}: got {result.dtype}"


@every_sample(lambda op, sample: sample.stable)
def test_narrow_floats_are_as_near_to_float64_as_they_can_be(op, sample):
    for dtype in FLOATS[1:]:
        typed = sample.with_float(dtype)
        exact = sample.with_float(float64)
        arrays = typed.arrays()
        types = outputs_of(op, typed.inputs, typed.attrs)
        wide = tuple(a.astype(t.dtype.numpy) for a, t in zip(arrays, exact.inputs, strict=True))

        got = evaluate(op, arrays, typed.attrs, types)

        want = as_tuple(op.evaluate(*wide, **exact.attrs))
        sums = as_tuple(op.evaluate(*map(magnitudes, wide), **exact.attrs))
        for g, w, s, t in zip(got, want, sums, types, strict=True):
            magnitude = s if sample.terms > 1 else None
            oracle.assert_close(
                g, w, t.dtype, terms=sample.terms, magnitude=magnitude, ulps=sample.ulps
            )


@every_sample(is_emitted)
def test_tile_form_means_what_evaluate_means(op, sample):
    block = Block()
    arrays = sample.arrays()
    tiles = [Tile(block, block.fresh("x"), t.dtype) for t in sample.inputs]

    result = op.emit(*tiles, **sample.attrs)

    (type_,) = outputs_of(op, sample.inputs, sample.attrs)
    assert result.dtype is type_.dtype
    env = {tile.name: array for tile, array in zip(tiles, arrays, strict=True)}
    got = run_block(block, env)[result.name]
    (want,) = evaluate(op, arrays, sample.attrs, (type_,))
    np.testing.assert_array_equal(got, want)


# --- vjp ---------------------------------------------------------------------------------------


@every_sample(has_slope)
def test_vjp_is_the_slope(op, sample):
    sample = sample.with_float(float64)
    arrays = sample.arrays()
    graph, weights = weighted_sum(op, sample)

    check_slope(with_gradients(graph), (*arrays, *weights))


@every_sample(has_slope)
def test_vjp_of_the_vjp_is_the_slope_of_the_slope(op, sample):
    sample = sample.with_float(float64)
    arrays = sample.arrays()
    graph, weights = weighted_sum(op, sample)
    first = with_gradients(graph)
    rng = np.random.default_rng(2)
    builder = Builder()
    again = replay(builder, first, [builder.input(v.type) for v in first.inputs])
    directions = [builder.input(t.type) for t in again[1:]]
    terms = [total(t * d) for t, d in zip(again[1:], directions, strict=True)]
    twice = builder.graph((sum(terms[1:], terms[0]).value,))
    more = [rng.uniform(-1, 1, d.shape) for d in directions]

    check_slope(with_gradients(twice), (*arrays, *weights, *more))


@every_sample(lambda op, sample: has_torch(op, sample) and flows(op, sample))
def test_gradients_are_torchs(op, sample):
    sample = sample.with_float(float64)
    arrays = sample.arrays()
    graph, weights = weighted_sum(op, sample)

    got = interpret(with_gradients(graph), *arrays, *weights)[1:]

    inputs = [torch.from_numpy(a.copy()) for a in arrays]
    leaves = [t.requires_grad_() for t in inputs if t.is_floating_point()]
    results = as_tuple(TORCH[op.name](*inputs, **sample.attrs))
    floats = [r for r in results if r.is_floating_point()]
    seeds = [torch.from_numpy(w).requires_grad_() for w in weights]
    loss = sum((r * w).sum() for r, w in zip(floats, seeds, strict=True))
    want = torch.autograd.grad(loss, [*leaves, *seeds], allow_unused=True)
    for g, w in zip(got, want, strict=True):
        expected = np.zeros(g.shape) if w is None else w.numpy()
        np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-12)


@every_sample(has_torch)
def test_values_are_torchs(op, sample):
    sample = sample.with_float(float64)
    arrays = sample.arrays()
    types = outputs_of(op, sample.inputs, sample.attrs)

    got = evaluate(op, arrays, sample.attrs, types)

    inputs = [torch.from_numpy(a.copy()) for a in arrays]
    want = as_tuple(TORCH[op.name](*inputs, **sample.attrs))
    for g, w, t in zip(got, map(torch.Tensor.numpy, want), types, strict=True):
        assert t.dtype.numpy == w.dtype
        largest = np.max(np.abs(w), initial=0) if t.dtype.is_floating_point else np.inf
        oracle.assert_close(g, w, t.dtype, magnitude=largest if np.isfinite(largest) else None)


# --- The tests above see planted bugs ----------------------------------------------------------


class TooSteep(type(REGISTRY["exp"])):
    def vjp(self, g, out, x):
        return (g * out * 1.001,)


class RightOnlyOnce(type(REGISTRY["exp"])):
    def vjp(self, g, out, x):
        return (g * out.call("stop_gradient"),)


class LosesDims(type(REGISTRY["sum"])):
    def infer(self, x, *, dims):
        return x.with_shape(tuple(s for d, s in enumerate(x.shape) if d not in dims))


class SumsInBfloat16(type(REGISTRY["sum"])):
    def evaluate(self, x, *, dims):
        narrow = x if x.dtype == np.float64 else x.astype(bfloat16.numpy)
        return super().evaluate(narrow, dims=dims)


class EmitsAnother(type(REGISTRY["add"])):
    tile_fn = "sub"


class ForgetsItsVjp(type(REGISTRY["exp"])):
    vjp = Op.vjp


@pytest.mark.parametrize(
    ("check", "planted"),
    [
        (test_vjp_is_the_slope, TooSteep),
        (test_vjp_of_the_vjp_is_the_slope_of_the_slope, RightOnlyOnce),
        (test_evaluate_gives_the_inferred_types, LosesDims),
        (test_narrow_floats_are_as_near_to_float64_as_they_can_be, SumsInBfloat16),
        (test_tile_form_means_what_evaluate_means, EmitsAnother),
    ],
)
def test_a_planted_bug_is_caught(check, planted):
    op = planted()
    sample = SAMPLES[op.name][0]

    check(REGISTRY[op.name], sample)
    with pytest.raises(AssertionError):
        check(op, sample)


def test_a_missing_facet_is_caught():
    with pytest.raises(AssertionError, match=r"exp\.vjp: present=False"):
        test_a_facet_is_present_or_absent_with_a_reason(ForgetsItsVjp())


# --- Helpers -----------------------------------------------------------------------------------


def inputs_of(sample: Sample) -> list[tuple[Array, Any]]:
    return list(zip(sample.arrays(), sample.inputs, strict=True))


def as_tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def magnitudes(array: Array) -> Array:
    return np.asarray(np.abs(array)) if array.dtype.kind == "f" else array


def total(x: Tracer) -> Tracer:
    """The sum of all elements, of rank 0."""
    flat = x.call("reshape", shape=(x.type.numel,))
    return flat.call("sum", dims=(0,)).call("reshape", shape=())


def weighted_sum(op: Op, sample: Sample) -> tuple[Graph, list[Array]]:
    """The sum of all float results of `op`, each weighted by a further input; and weights."""
    builder = Builder()
    inputs = [builder.input(t) for t in sample.inputs]
    results = as_tuple(builder.apply(op, *inputs, **sample.attrs))
    floats = [r for r in results if r.dtype.is_floating_point]
    weights = [builder.input(r.type) for r in floats]
    terms = [total(r * w).call("cast", dtype=float64) for r, w in zip(floats, weights, strict=True)]
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(0.5, 1, r.shape).astype(r.dtype.numpy) for r in floats]
    return builder.graph((sum(terms[1:], terms[0]).value,)), arrays


def with_gradients(graph: Graph) -> Graph:
    """`graph`, of one scalar output, with the gradients of all its float inputs as outputs."""
    builder = Builder()
    inputs = [builder.input(v.type) for v in graph.inputs]
    (out,) = replay(builder, graph, inputs)
    floats = [t for t in inputs if t.dtype.is_floating_point]
    grads = gradients(
        builder,
        tuple(builder.nodes),
        [out.value],
        [builder.full(out.type, 1.0)],
        [t.value for t in floats],
        lambda v: v.type.dtype.is_floating_point,
    )
    given = [
        builder.full(x.type, 0.0) if g is None else g for x, g in zip(floats, grads, strict=True)
    ]
    return builder.graph((out.value, *(g.value for g in given)))


def replay(builder: Builder, graph: Graph, inputs: list[Tracer]) -> list[Tracer]:
    """Append `graph`'s nodes to `builder`, on `inputs`; the outputs."""
    env = {v: t.value for v, t in zip(graph.inputs, inputs, strict=True)}
    for node in graph.nodes:
        again = builder.add(node.op, tuple(env[v] for v in node.inputs), node.attrs)
        env.update(zip(node.outputs, again.outputs, strict=True))
    return [builder.wrap(env[v]) for v in graph.outputs]


def check_slope(graph: Graph, arrays: tuple[Array, ...]) -> None:
    """Output 0 changes along random directions as the others, its gradients, say."""
    _, *grads = interpret(graph, *arrays)
    places = [i for i, a in enumerate(arrays) if a.dtype == np.float64]
    assert len(places) == len(grads)
    rng = np.random.default_rng(3)
    for _ in range(3):
        # Relative to the values, so that tiny ones keep their sign.
        directions = {i: rng.uniform(-1, 1, arrays[i].shape) * arrays[i] for i in places}
        want = central_difference(lambda *a: interpret(graph, *a)[0], arrays, directions)
        got = sum(float(np.sum(g * directions[i])) for i, g in zip(places, grads, strict=True))
        scale = sum(
            float(np.sum(np.abs(g * directions[i]))) for i, g in zip(places, grads, strict=True)
        )
        assert abs(got - want) <= 1e-6 * scale + 1e-7, f"vjp says {got}, the slope is {want}"


def central_difference(
    f: Callable[..., Array], arrays: tuple[Array, ...], directions: dict[int, Array]
) -> float:
    step = 1e-5

    def at(t: float) -> float:
        moved = [a + t * directions[i] if i in directions else a for i, a in enumerate(arrays)]
        return float(f(*moved))

    return (at(step) - at(-step)) / (2 * step)


def run_block(block: Block, env: dict[str, Array]) -> dict[str, Array]:
    """Run a block's statements, each tile function meaning the op of its name."""
    for let in block.lets:
        assert let.fn in FUNCTIONS
        args = [env[a] if isinstance(a, str) else np.asarray(a) for a in let.args]
        if let.fn == "cast":
            env[let.name] = args[0].astype(let.dtype.numpy)
            continue
        is_logic = let.fn in ("and", "or", "xor", "not")
        prefix = "" if not is_logic else "logical_" if let.dtype is bool_ else "bitwise_"
        with np.errstate(all="ignore"):
            result = np.asarray(REGISTRY[prefix + let.fn].evaluate(*args))
        assert result.dtype == let.dtype.numpy, f"{let}: gives {result.dtype}"
        env[let.name] = result
    return env
