"""Graphs that are no programs, each refused with its reason and the place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from samples import SAMPLES

from lowgrad import ops  # noqa: F401  (fills the registry)
from lowgrad.errors import VerifyError
from lowgrad.ir import Graph, Node, TensorType, Value, parse, verify
from lowgrad.ir.build import Builder
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import float32, int64

STEP = """\
graph step(%x: f32[2,3], %w: f32[2,3], %n: i64[2,3]) aliases {0: 1} {
  %a = add %x, %w : f32[2,3]
  %b = exp %a : f32[2,3]
  %c = fused %b {kind="pointwise"} : f32[2,3] {
    graph body(%p: f32[2,3]) {
      %q = neg %p : f32[2,3]
      %r = exp %q : f32[2,3]
      return %r
    }
  }
  return %c, %b
}"""
F32 = TensorType((2, 3), float32)
GHOST = Value(F32, "ghost")


def with_node(graph: Graph, number: int, **changes) -> Graph:
    nodes = list(graph.nodes)
    nodes[number] = replace(nodes[number], **changes)
    return replace(graph, nodes=tuple(nodes))


def reversed_nodes(graph: Graph) -> Graph:
    return replace(graph, nodes=graph.nodes[::-1])


def reads_its_own_output(graph: Graph) -> Graph:
    return with_node(graph, 1, inputs=graph.nodes[1].outputs)


def reads_nothing_known(graph: Graph) -> Graph:
    return with_node(graph, 1, inputs=(GHOST,))


def defines_an_input_again(graph: Graph) -> Graph:
    return with_node(graph, 1, outputs=graph.inputs[:1])


def has_a_node_twice(graph: Graph) -> Graph:
    return replace(graph, nodes=(graph.nodes[0], *graph.nodes))


def has_an_input_twice(graph: Graph) -> Graph:
    return replace(graph, inputs=(*graph.inputs, graph.inputs[0]))


def has_another_type(graph: Graph) -> Graph:
    return with_node(graph, 0, outputs=(Value(TensorType((3, 2), float32), "a"),))


def has_another_dtype(graph: Graph) -> Graph:
    return with_node(graph, 1, outputs=(Value(TensorType((2, 3), int64), "b"),))


def has_too_many_outputs(graph: Graph) -> Graph:
    return with_node(graph, 1, outputs=(*graph.nodes[1].outputs, GHOST))


def mixes_types(graph: Graph) -> Graph:
    return with_node(graph, 0, inputs=(graph.inputs[0], graph.inputs[2]))


def lacks_an_operand(graph: Graph) -> Graph:
    return with_node(graph, 0, inputs=graph.inputs[:1])


def lacks_an_attribute(graph: Graph) -> Graph:
    return with_node(graph, 1, op=REGISTRY["permute"])


def returns_nothing_known(graph: Graph) -> Graph:
    return replace(graph, outputs=(GHOST,))


def aliases_a_missing_output(graph: Graph) -> Graph:
    return replace(graph, aliases={2: 0})


def aliases_a_missing_input(graph: Graph) -> Graph:
    return replace(graph, aliases={0: -1})


def aliases_another_type(graph: Graph) -> Graph:
    return replace(graph, aliases={0: 2})


def aliases_an_input_twice(graph: Graph) -> Graph:
    return replace(graph, aliases={0: 1, 1: 1})


def has_a_broken_body(graph: Graph) -> Graph:
    body = graph.nodes[2].attrs["body"]
    return with_node(graph, 2, attrs={"kind": "pointwise", "body": reversed_nodes(body)})


def has_a_body_that_reads_outside(graph: Graph) -> Graph:
    body = with_node(graph.nodes[2].attrs["body"], 0, inputs=graph.inputs[:1])
    return with_node(graph, 2, attrs={"kind": "pointwise", "body": body})


BROKEN = [
    (reversed_nodes, "step: fused uses %b, which is not defined before it"),
    (reads_its_own_output, "step: exp uses %b, which is not defined before it"),
    (reads_nothing_known, "step: exp uses %?ghost, which is not defined before it"),
    (defines_an_input_again, "step: %x is defined twice"),
    (has_a_node_twice, "step: %a is defined twice"),
    (has_an_input_twice, "step: the input %x is there twice"),
    (has_another_type, "step: add gives f32[2,3], but %a is f32[3,2]"),
    (has_another_dtype, "step: exp gives f32[2,3], but %b is i64[2,3]"),
    (has_too_many_outputs, "step: exp has 1 results, not 2"),
    (mixes_types, None),
    (lacks_an_operand, None),
    (lacks_an_attribute, None),
    (returns_nothing_known, "step: the output %?ghost is defined nowhere"),
    (
        aliases_a_missing_output,
        "step: the alias 2: 0 is out of range: there are 2 outputs and 3 inputs",
    ),
    (
        aliases_a_missing_input,
        "step: the alias 0: -1 is out of range: there are 2 outputs and 3 inputs",
    ),
    (aliases_another_type, "step: the alias 0: 2 puts f32[2,3] into an input of i64[2,3]"),
    (aliases_an_input_twice, "step: two outputs take over input 1"),
    (has_a_broken_body, "body: exp uses %q, which is not defined before it"),
    (has_a_body_that_reads_outside, "body: neg uses %?x, which is not defined before it"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_a_broken_graph_is_refused(change, message):
    broken = change(parse(STEP))

    with pytest.raises(VerifyError) as caught:
        verify(broken)

    error = caught.value
    assert message is None or error.message == message
    lines = str(error).split("\n")
    assert len(lines) <= 12
    assert all(len(line) <= 100 for line in lines)
    assert sum(set(line) == {" ", "^"} for line in lines) == 1


def test_an_error_shows_the_place(golden):
    with pytest.raises(VerifyError) as caught:
        verify(reads_nothing_known(parse(STEP)))

    golden(caught.value)


def test_what_parses_and_what_builds_verifies():
    verify(parse(STEP))

    for name, samples in SAMPLES.items():
        for sample in samples:
            builder = Builder()
            inputs = tuple(builder.input(t).value for t in sample.inputs)
            node = builder.add(REGISTRY[name], inputs, sample.attrs)
            verify(builder.graph(node.outputs))


def test_an_empty_graph_verifies():
    verify(Graph((), (), ()))
    verify(Graph((GHOST,), (), (GHOST, GHOST), {0: 0}))


def test_nodes_may_come_in_any_order_that_defines_first():
    graph = parse("graph g(%x: f32[2]) { %a = neg %x : f32[2] %b = exp %x : f32[2] return %a, %b }")

    verify(replace(graph, nodes=graph.nodes[::-1]))


def test_a_planted_wrong_infer_is_caught():
    class Wrong(type(REGISTRY["exp"])):  # type: ignore[misc]
        """exp, with a type of another rank."""

        def infer(self, x):
            return x.with_shape((1, *x.shape))

    graph = parse(STEP)
    node = graph.nodes[1]

    with pytest.raises(VerifyError, match=r"exp gives f32\[1,2,3\], but %b is f32\[2,3\]"):
        verify(replace(graph, nodes=(graph.nodes[0], Node(Wrong(), node.inputs, {}, node.outputs))))
