"""What simplify, fold, views, cse and dce do, and above all what they leave alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from strategies import same_bits

import lowgrad.ops  # noqa: F401 - fills the registry
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import (
    TensorType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int32,
    int64,
)
from lowgrad.passes import cse as cse_module
from lowgrad.passes.cse import cse
from lowgrad.passes.dce import dce
from lowgrad.passes.fold import fold
from lowgrad.passes.rewrite import rewrite
from lowgrad.passes.simplify import RULES, simplify
from lowgrad.passes.views import views

F32 = TensorType((2, 3), float32)


def graph_of(function, *types: TensorType) -> Graph:
    b = Builder()
    made = function(*[b.input(t, f"x{i}") for i, t in enumerate(types)])
    outputs = made if isinstance(made, tuple) else (made,)
    return b.graph(tuple(t.value for t in outputs), name="program")


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def cast(x: Tracer, *dtypes) -> Tracer:
    for dtype in dtypes:
        x = x.call("cast", dtype=dtype)
    return x


VANISHING = {
    "x * 1": lambda x: x * 1.0,
    "1 * x": lambda x: x.builder.full(x.type, 1.0) * x,
    "x - 0": lambda x: x - 0.0,
    "x + -0.0": lambda x: x + -0.0,
    "x / 1": lambda x: x / 1.0,
    "x ** 1": lambda x: x.call("pow", 1.0),
    "-(-x)": lambda x: x.call("neg").call("neg"),
    "max(x, x)": lambda x: x.call("maximum", x),
    "stop_gradient": lambda x: x.call("stop_gradient"),
    "where(true)": lambda x: x.builder.full(x.type.with_dtype(bool_), True).call(
        "where", x, x.call("exp")
    ),
    "where(c, x, x)": lambda x: (x < 0.0).call("where", x, x),
    "cast to f64 and back": lambda x: cast(x, float64, float32),
    "permute twice": lambda x: x.call("permute", dims=(1, 0)).call("permute", dims=(1, 0)),
    "reshape there and back": lambda x: x.call("reshape", shape=(6,)).call("reshape", shape=(2, 3)),
    "flip twice": lambda x: x.call("flip", dims=(0,)).call("flip", dims=(0,)),
    "slice of everything": lambda x: x.call("slice", starts=(0, 0), stops=(2, 3), steps=(1, 1)),
    "pad by nothing": lambda x: x.call("pad", low=(0, 0), high=(0, 0), value=0),
    "sum of one": lambda x: (
        x.call("reshape", shape=(2, 1, 3)).call("sum", dims=(1,)).call("reshape", shape=(2, 3))
    ),
}


@pytest.mark.parametrize("name", VANISHING)
def test_simplify_removes(name):
    assert ops(simplify(graph_of(VANISHING[name], F32))) == []


KEPT = {
    "x * 0 is NaN for inf": (lambda x: x * 0.0, F32),
    "x + 0 turns -0 into 0": (lambda x: x + 0.0, F32),
    "x - -0.0 too": (lambda x: x - -0.0, F32),
    "x - x is NaN for NaN": (lambda x: x - x, F32),
    "x / x is NaN for 0": (lambda x: x / x, F32),
    "0 - x is 0 for 0, and -x is -0": (lambda x: 0.0 - x, F32),
    "x / 3 rounds once, x * (1/3) twice": (lambda x: x / 3.0, F32),
    "x / 2^20 has no exact reciprocal in f16": (lambda x: x / 2.0**20, F32),
    "a cast that rounds": (lambda x: cast(x, bfloat16, float32), F32),
    "a cast that wraps": (lambda x: cast(x, int32, int64), TensorType((2, 3), int64)),
    "a cast that may be where a region rounds": (
        lambda x: cast(x, float32, bfloat16),
        TensorType((2, 3), bfloat16),
    ),
    "f16 holds no bf16": (lambda x: cast(x, float16, float32), TensorType((2, 3), bfloat16)),
    "max(x, -inf) of NaN": (lambda x: x.call("maximum", -math.inf), F32),
}


@pytest.mark.parametrize("name", KEPT)
def test_simplify_keeps(name):
    function, type_ = KEPT[name]
    graph = graph_of(function, type_)

    assert ops(simplify(graph)) == ops(graph)


SPECIAL = np.array([[math.inf, math.nan, -0.0], [0.0, 1e30, 3.3]], np.float32)

WRONG_RULES = {
    "x * 0 = 0": ("mul", lambda n, r: n.inputs[1] if r.number(n.inputs[1]) == 0 else None),
    "x + 0 = x": ("add", lambda n, r: n.inputs[0] if r.number(n.inputs[1]) == 0 else None),
    "casts cancel": ("cast", lambda n, r: _cancelled(n, r)),
}


def _cancelled(node, r):
    inner = r.maker(node.inputs[0], "cast")
    return inner.inputs[0] if inner and inner.inputs[0].type == node.output.type else None


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_wrong_rule_would_be_seen(name):
    """The programs above and these inputs catch each of these planted bugs."""
    op, rule = WRONG_RULES[name]
    graph = graph_of(lambda x: (x * 0.0, x + 0.0, cast(x, bfloat16, float32)), F32)

    wrong = rewrite(graph, {**RULES, op: (rule,)})

    with np.errstate(all="ignore"):
        pairs = zip(interpret(graph, SPECIAL), interpret(wrong, SPECIAL), strict=True)
        assert not all(same_bits(a, b) for a, b in pairs)


def test_division_by_a_power_of_two_becomes_a_product():
    assert ops(simplify(graph_of(lambda x: x / 8.0, F32))) == ["full", "mul"]


def test_rules_meet_what_other_rules_made():
    graph = graph_of(lambda x: -(x + (-x).call("neg").call("neg")), F32)  # -(x - x)

    assert ops(simplify(graph)) == ["sub", "neg"]


def test_slices_compose():
    graph = graph_of(
        lambda x: x.call("slice", starts=(1,), stops=(20,), steps=(3,)).call(
            "slice", starts=(1,), stops=(6,), steps=(2,)
        ),
        TensorType((20,), int64),
    )

    (node,) = simplify(graph).nodes

    assert dict(node.attrs) == {"starts": (4,), "stops": (17,), "steps": (6,)}


def test_fold_computes_on_constants(golden):
    def program(x):
        two = x.builder.full(x.type, 2.0)
        return x * (two.call("sqrt") + two).call("reshape", shape=(6,)).call(
            "reshape", shape=(2, 3)
        )

    golden(fold(graph_of(program, F32)))


def test_fold_rounds_as_the_interpreter_does():
    def program(x):
        return x.builder.full(x.type, 0.1) + x.builder.full(x.type, 0.2)

    graph = graph_of(program, TensorType((2,), bfloat16))
    x = np.zeros(2, bfloat16.numpy)

    assert ops(fold(graph)) == ["full"]
    assert same_bits(interpret(fold(graph), x)[0], interpret(graph, x)[0])


def test_fold_leaves_a_division_by_zero_to_the_run():
    graph = graph_of(
        lambda x: x.builder.full(x.type, 1).call("floordiv", 0), TensorType((2,), int64)
    )

    assert "floordiv" in ops(fold(graph))


def test_a_weight_gradient_comes_out_as_its_weight(golden):
    def program(x, g):
        weight_gradient = x.call("permute", dims=(1, 0)).call("matmul", g)
        return weight_gradient.call("permute", dims=(1, 0))

    types = TensorType((8, 5), float32), TensorType((8, 3), float32)

    golden(views(graph_of(program, *types)))


def test_products_with_one_matrix_become_one_product(golden):
    def program(x, w):
        return x.call("matmul", w.call("reshape", shape=(1, 5, 6)).call("expand", shape=(4, 5, 6)))

    types = TensorType((4, 3, 5), float32), TensorType((5, 6), float32)

    golden(views(graph_of(program, *types)))


def test_a_sum_of_products_becomes_one_product(golden):
    def program(x, g):
        product = x.call("permute", dims=(0, 2, 1)).call("matmul", g)
        return product.call("sum", dims=(0,)).call("reshape", shape=(5, 6))

    types = TensorType((4, 3, 5), float32), TensorType((4, 3, 6), float32)

    golden(views(graph_of(program, *types)))


def test_scattered_gradients_are_added_where_the_others_are():
    def program(grad, index, rows):
        scattered = grad.builder.full(grad.type, 0).call("index_add", index, rows, dim=0)
        return grad + scattered

    types = (
        TensorType((9, 4), float32),
        TensorType((5,), int64),
        TensorType((5, 4), float32),
    )
    graph = graph_of(program, *types)

    assert ops(views(graph)) == ["index_add"]
    grad, index, rows = np.ones((9, 4), np.float32), np.array([3, 3, 0, 8, 3]), np.eye(5, 4)
    arrays = (grad, index, rows.astype(np.float32))
    for got, want in zip(interpret(views(graph), *arrays), interpret(graph, *arrays), strict=True):
        np.testing.assert_allclose(got, want)


def test_a_product_with_two_readers_is_not_computed_twice():
    def program(a, b):
        product = a.call("matmul", b)
        return product, product.call("permute", dims=(1, 0))

    graph = graph_of(program, TensorType((2, 3), float32), TensorType((3, 4), float32))

    assert ops(views(graph)).count("matmul") == 1


def test_pointwise_work_is_done_before_expanding(golden):
    def program(x):
        return (x.call("expand", shape=(64, 3)) * 2.0).call("exp")

    golden(views(graph_of(program, TensorType((1, 3), float32))))


def gated(x, y):
    return (x + y).call("tanh") * (x + y)


def test_cse_merges_equal_sums(golden):
    golden(cse(graph_of(gated, F32, F32)))


def fulls(*values):
    def program(x):
        return tuple(x.builder.full(x.type, v) for v in values)

    return program


def test_cse_tells_zero_from_minus_zero():
    graph = graph_of(fulls(0.0, -0.0, 0, math.nan, math.nan), F32)

    zero, minus_zero, *_, one_nan, other_nan = cse(graph).outputs

    assert zero is not minus_zero
    assert one_nan is other_nan


def test_a_plain_key_would_be_seen(monkeypatch):
    monkeypatch.setattr(cse_module, "key_of", lambda attr: attr)
    graph = graph_of(fulls(0.0, -0.0), F32)

    pairs = zip(interpret(cse(graph), SPECIAL), interpret(graph, SPECIAL), strict=True)

    assert not all(same_bits(a, b) for a, b in pairs)


def test_cse_merges_random_numbers_of_one_key_and_offset_only():
    def program(key):
        draw = REGISTRY["uniform"]
        return tuple(
            key.builder.apply(draw, key, shape=(2,), dtype=float32, offset=o) for o in (0, 0, 1)
        )

    one, same, other = cse(graph_of(program, TensorType((2,), int64))).outputs

    assert one is same
    assert one is not other


def test_dce_keeps_what_outputs_need():
    def program(x):
        x.call("exp")
        return x.call("sin")

    assert ops(dce(graph_of(program, F32))) == ["sin"]
