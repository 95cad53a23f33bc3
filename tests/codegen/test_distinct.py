"""Equal work is equal text: layers that are alike have the same kernels."""

from __future__ import annotations

import pytest
from codegen.helpers import region, tensor
from models import Block

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim
from lowgrad.codegen.alike import alike
from lowgrad.codegen.lower import Launch, lower
from lowgrad.codegen.region import role_of
from lowgrad.codegen.step import distinct
from lowgrad.errors import Location
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Node

TOKENS = lowgrad.TensorSpec((2, 8), lowgrad.int64)
# A language model has 38 today, of however many layers.
MOST_DISTINCT = 40


def gpt(layers: int):
    """The compiled step of a language model of so many equal blocks."""
    net = nn.Sequential(
        nn.Embedding(37, 16), *(Block(16, 2) for _ in range(layers)), nn.LayerNorm(16)
    )
    head = nn.Linear(16, 37, bias=False)
    optimizer = optim.AdamW([*net.parameters(), *head.parameters()], lr=0.01)

    @lowgrad.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(net(x)).reshape(-1, 37), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    return step.lower(TOKENS, TOKENS)


def test_more_equal_layers_are_no_more_distinct_kernels():
    three, four, five = gpt(3), gpt(4), gpt(5)

    assert len(five.kernels) > len(three.kernels) + 30
    counts = [len(distinct(c.kernels)) for c in (three, four, five)]
    assert counts == [counts[0]] * 3
    assert counts[0] <= MOST_DISTINCT


@pytest.mark.parametrize(
    ("hint", "role"),
    [
        ("model.blocks.3.up.weight", "weight"),
        ("blocks.11.norm.weight.exp_avg", "exp_avg"),
        ("layers.0", "layers"),
        ("x", "x"),
        ("", ""),
        ("7", ""),
        ("model.lambda", "v_lambda"),
    ],
)
def test_a_param_is_called_what_it_is_to_its_layer(hint, role):
    assert role_of(hint) == role


def test_a_param_still_knows_its_value():
    kernels = [k for k in gpt(3).kernels if any(p.name == "exp_avg_ptr" for p in k.params)]

    hints = {p.value.hint for k in kernels for p in k.params if p.name == "exp_avg_ptr"}

    assert len(hints) > 3


def at_line(line: int, factor: float = 2.0) -> Node:
    builder = Builder()
    x = builder.input(tensor(4), "x")
    with builder.at(Location("model.py", line, "forward")):
        y = x * factor
    with builder.at(Location("model.py", 20, "forward")):
        y = y.call("exp")
    fused = region("pointwise", lambda x: x, x=tensor(4))
    attrs = {"body": builder.graph((y.value,)), "kind": "pointwise"}
    return Node(fused.op, fused.inputs, attrs, fused.outputs, Location("model.py", line, "forward"))


def alike_kernels(*nodes: Node):
    return [k for k, _ in alike(Launch(kernel, 1) for n in nodes for kernel in lower(n))]


def test_equal_kernels_of_different_lines_have_one_text_and_their_own_place():
    one, two = alike_kernels(at_line(14), at_line(15))

    assert one.source == two.source
    assert "model.py:14" not in one.source
    assert "# model.py:20\n" in one.source
    assert [str(k.loc) for k in (one, two)] == [
        "model.py:14, in forward",
        "model.py:15, in forward",
    ]


def test_kernels_that_compute_differently_keep_their_lines():
    one, two = alike_kernels(at_line(14), at_line(15, 3.0))

    assert "# model.py:14\n" in one.source
    assert "# model.py:15\n" in two.source
