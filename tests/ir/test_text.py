"""Text to graph to text, the same for every op; malformed text, refused where it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SAMPLES

from lowgrad.errors import IRParseError, Location
from lowgrad.ir import parse, verify
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.text import print_graph
from lowgrad.ir.types import DTYPES, TensorType, float32, float64
from lowgrad.ops.create import full
from lowgrad.ops.region import fused

F32 = TensorType((2, 3), float32)

STEP = """\
graph step(%x: f32[2,3], %fc1.weight: f32[4,3]) aliases {1: 1} {
  %0 = permute %fc1.weight {dims=(1, 0)} : f32[3,4]
  %logits = matmul %x, %0 : f32[2,4]
  %1, %2 = sort %logits {descending=False, dim=1} : f32[2,4], i64[2,4]
  %3 = fused %logits {kind="pointwise"} : f32[2,4] {
    graph body(%a: f32[2,4]) {
      %0 = full {dtype=f32, shape=(2, 4), value=-inf} : f32[2,4]
      %1 = maximum %a, %0 : f32[2,4]
      return %1
    }
  }
  %4 = cast %3 {dtype=f64} : f64[2,4]
  return %4, %fc1.weight, %2
}"""


def one_node(op, sample) -> Graph:
    builder = Builder()
    inputs = [builder.input(t) for t in sample.inputs]
    node = builder.add(op, tuple(t.value for t in inputs), sample.attrs)
    return builder.graph(node.outputs)


def shape_of(graph: Graph) -> object:
    """Everything that a graph says, comparable."""
    numbers = {v: i for i, v in enumerate([*graph.inputs, *_made(graph)])}
    return (
        graph.name,
        [(v.type, v.hint) for v in numbers],
        [(n.op, [numbers[v] for v in n.inputs], _attrs(n), n.loc) for n in graph.nodes],
        [numbers[v] for v in graph.outputs],
        dict(graph.aliases),
    )


def _made(graph):
    return [v for node in graph.nodes for v in node.outputs]


def _attrs(node):
    return {k: shape_of(v) if isinstance(v, Graph) else repr(v) for k, v in node.attrs.items()}


# --- Round trips -------------------------------------------------------------------------------


def test_text_to_graph_to_text_is_the_same():
    graph = parse(STEP)

    verify(graph)
    assert print_graph(graph) == STEP
    assert str(graph) == STEP
    assert shape_of(parse(str(graph))) == shape_of(graph)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_op_goes_to_text_and_back(name):
    for sample in SAMPLES[name]:
        for dtype in (float32, float64):
            graph = one_node(REGISTRY[name], sample.with_float(dtype))

            again = parse(str(graph))

            assert shape_of(again) == shape_of(graph)
            assert str(again) == str(graph)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.short)
def test_every_dtype_goes_to_text_and_back(dtype):
    builder = Builder()
    x = builder.input(TensorType((2,), dtype), "x")
    made = builder.full(TensorType((), dtype), 1)
    graph = builder.graph((x.value, made.value))

    assert shape_of(parse(str(graph))) == shape_of(graph)


@pytest.mark.parametrize("value", [0.1, 1e300, -1e-07, float("inf"), -float("inf"), float("nan")])
def test_numbers_keep_every_bit(value):
    builder = Builder()
    made = builder.apply(full, shape=(), dtype=float64, value=value)

    graph = parse(str(builder.graph((made.value,))))

    assert repr(graph.nodes[0].attrs["value"]) == repr(value)


def test_locations_are_printed_and_parsed_when_asked():
    builder = Builder(lambda: Location("my models/net.py", 14, "Mlp.forward"))
    x = builder.input(F32, "x")
    inner = Builder(lambda: Location("<stdin>", 1, "<module>"))
    body = inner.graph(((inner.input(F32) + 1.0).value,), name="body")
    graph = builder.graph((fused(-x, body=body, kind="rows").value,))

    text = print_graph(graph, locations=True)

    assert "%0 = neg %x : f32[2,3]  @ my models/net.py:14 in Mlp.forward\n" in text
    assert "  }  @ my models/net.py:14 in Mlp.forward\n" in text
    assert print_graph(parse(text), locations=True) == text
    assert "@" not in print_graph(graph)


def test_names_come_from_hints_made_unique(golden):
    builder = Builder()
    inputs = [builder.input(F32, h) for h in ("x", "x", "", "0.weight", "12", "a b", "x_1")]
    total = inputs[0]
    nodes = []
    for other, hint in zip(inputs[1:], ("x", "sum", "sum", "", "x.y", "7"), strict=True):
        node = builder.add(REGISTRY["add"], (total.value, other.value), {})
        out = Value(node.outputs[0].type, hint)
        nodes.append(Node(node.op, node.inputs, node.attrs, (out,)))
        total = builder.wrap(out)
    graph = Graph(tuple(builder.inputs), tuple(nodes), (total.value,), name="3 <lambda>")

    golden(graph)
    assert str(parse(str(graph))) == str(graph)


def test_white_space_and_line_breaks_mean_nothing():
    words = STEP.replace("\n", " ").replace(" ", " \r\n\t ")

    assert str(parse(words)) == STEP


def test_a_body_keeps_its_own_name():
    text = STEP.replace("graph body(", "body = graph tail(")

    assert str(parse(text)) == text


# --- Refusals ----------------------------------------------------------------------------------

# What to replace in STEP, by what, and the error's headline behind the file's name.
MALFORMED = [
    ("matmul", "matmull", '3:13: there is no op "matmull"; did you mean "matmul"?'),
    ("%x, %0", "%y, %0", '3:20: "%y" is not defined before this line'),
    (
        "%x, %0 : f32[2,4]",
        "%x, %logits : f32[2,4]",
        '3:24: "%logits" is not defined before this line',
    ),
    ("matmul %x, %0", "matmul %x", "3:13: matmul takes 2 operands, not 1"),
    ("%0 = permute", "%x = permute", '2:3: "%x" is defined twice'),
    ("dims=(1, 0)", "dim=(1, 0)", '2:8: permute has no attribute "dim"; did you mean "dims"?'),
    ("{dims=(1, 0)} ", "", '2:8: permute needs the attribute "dims"'),
    (
        "dims=(1, 0)",
        "dims=(1, 1)",
        "2:8: permute: (1, 1) is not an order of the 2 dims of f32[4,3]",
    ),
    ("dims=(1, 0)", 'dims="no"', "2:8: permute: no is not an order of the 2 dims of f32[4,3]"),
    ("dims=(1, 0)", "dims=1", "2:8: permute does not take attributes of these types"),
    ("dims=(1, 0)", "dims=(1, 0), dims=()", '2:42: permute has "dims" already'),
    ("dims=(1, 0)", "dims=(1)", '2:34: a tuple of one is written with a comma: "(1,)"'),
    ("dims=(1, 0)", "dims=(1 0)", '2:37: expected ",", found "0"'),
    (
        "dims=(1, 0)",
        "dims=f31",
        '2:34: expected a value of an attribute, found "f31"; did you mean "f32"?',
    ),
    ("dims=(1, 0)", "dims=", '2:34: expected a value of an attribute, found "}"'),
    ("dims=(1, 0)", f"dims=({'9' * 21}, 0)", "2:35: a number has more than 20 digits"),
    ("dims=(1, 0)", 'dims="\\q"', "2:34: the string has an escape that JSON does not know"),
    (": f32[3,4]", ": f32[3,5]", "2:44: permute gives f32[3,4], not f32[3,5]"),
    (": f32[3,4]", ": f33[3,4]", '2:44: there is no dtype "f33"; did you mean "f32"?'),
    (": f32[3,4]", ": f32[3,4], f32[]", "2:44: permute has 1 results, not 2"),
    (": f32[3,4]", ": f32[-3,4]", "2:48: a size is negative"),
    (": f32[3,4]", ": f32[3.5,4]", '2:48: expected a size, found "3.5"'),
    (": f32[3,4]", f": f32[{'9' * 19}]", "2:48: types have up to 32 dims and 2^62 elements"),
    (": f32[3,4]", f": f32[{'1,' * 33}1]", "2:112: types have up to 32 dims and 2^62 elements"),
    ("%1, %2 = sort", "%1 = sort", "4:3: 1 names for 2 results of sort"),
    (
        "aliases {1: 1}",
        "aliases {1: 2}",
        "1:49: the alias 1: 2 is out of range: there are 3 outputs and 2 inputs",
    ),
    (
        "aliases {1: 1}",
        "aliases {0: 1}",
        "1:49: the alias 0: 1 puts f64[2,4] into an input of f32[4,3]",
    ),
    ("aliases {1: 1}", "aliases {1: 1, 1: 0}", "1:64: output 1 has an alias already"),
    ("graph body(", "graph bodies(", '5:8: fused has no attribute "bodies"; did you mean "body"?'),
    (
        'kind="pointwise"',
        'kind="round"',
        "5:8: fused: 'round' is no kind of region; there are pointwise, rows, matmul, multi",
    ),
    ("graph step", "grpah step", '1:1: expected "graph", found "grpah"'),
    ("return %4", "retrun %4", '13:3: expected a value\'s name or "return", found "retrun"'),
    ("return %4,", "return %4, ,", '13:14: expected a value\'s name, found ","'),
    ("permute %fc1", "permute $fc1", "2:16: unexpected character '$'"),
    ("permute %fc1", "permute \x00%fc1", "2:16: unexpected character '\\x00'"),
    (
        "f64[2,4]\n",
        "f64[2,4]  @ nowhere\n",
        '12:40: expected a location like "@ model.py:14 in forward"',
    ),
]


@pytest.mark.parametrize(("old", "new", "headline"), MALFORMED, ids=[m[2] for m in MALFORMED])
def test_malformed_text_is_refused_where_it_is_wrong(old, new, headline):
    assert old in STEP

    with pytest.raises(IRParseError) as caught:
        parse(STEP.replace(old, new, 1))

    error = caught.value
    assert f"<ir>:{error.line}:{error.column}: {error.message}" == f"<ir>:{headline}"


def test_text_that_ends_or_goes_on_is_refused():
    with pytest.raises(
        IRParseError, match=r"<ir>:1:1: expected \"graph\", found the end of the te"
    ):
        parse("")
    with pytest.raises(IRParseError, match="found the end of the text"):
        parse(STEP[:-1])
    with pytest.raises(IRParseError, match="expected the end of the text, found"):
        parse(STEP + STEP)


def test_an_error_shows_the_line_and_carets(golden):
    with pytest.raises(IRParseError) as caught:
        parse(STEP.replace("matmul", "matmull"))

    golden(caught.value)


def test_an_error_in_a_long_line_shows_the_part_that_matters(golden):
    inputs = ", ".join(f"%input{i}: f32[{i}]" for i in range(100))

    with pytest.raises(IRParseError) as caught:
        parse(f"graph wide({inputs}, %input7: f32[1]) {{ return }}")

    golden(caught.value)


def test_nesting_is_bounded():
    deep = "(" * 100_000
    region = "%0 = fused {kind='rows'} : f32[] { graph body() { ".replace("'", '"')

    with pytest.raises(IRParseError, match="tuples nest deeper than 32"):
        parse(STEP.replace("(1, 0)", deep))
    with pytest.raises(IRParseError, match="graphs nest deeper than 32"):
        parse("graph g() { " + region * 1000)


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_text_at_all_parses_or_is_refused(text):
    refused_or_prints_the_same(text)


PIECES = [
    *STEP.split(" "),
    *'%{}()[],:=@-."\\\n\0\x85\ud800é',
    *("%%", "-inf", "nan", "1e999", "-0", '""', "return", "graph", "body"),
    *("9" * 30, "(" * 40, "True", "None", "bf16[2]", "f32"),
]


@st.composite
def mutations(draw):
    """STEP with a few cuts, each filled with something else."""
    text = STEP
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from((0, 1, 2, 7, 60)))
        text = text[:start] + draw(st.sampled_from(PIECES)) + text[start + length :]
    return text


@settings(max_examples=500, deadline=None)
@given(mutations())
def test_mutated_text_parses_or_is_refused(text):
    refused_or_prints_the_same(text)


def refused_or_prints_the_same(text: str) -> None:
    try:
        graph = parse(text)
    except IRParseError as error:
        lines = str(error).split("\n")
        assert len(lines) <= 12
        assert all(len(line) <= 100 for line in lines)
        return
    verify(graph)
    printed = print_graph(graph, locations=True)
    assert print_graph(parse(printed), locations=True) == printed


def test_a_tuple_of_graphs_goes_to_text_and_back():
    text = """\
graph step(%x: f32[6]) {
  %0 = fused %x {kind="rows"} : f32[6] {
    pieces.0 = graph a(%x: f32[2]) {
      return %x
    }
    pieces.1 = graph b(%x: f32[4]) {
      return %x
    }
  }
  return %0
}"""
    body = "graph step(%x: f32[6]) {\n  return %x\n}"
    inner = parse(body)
    node = Node(
        REGISTRY["neg"], inner.inputs, {"pieces": (inner, inner)}, (Value(inner.inputs[0].type),)
    )
    lines = str(Graph(inner.inputs, (node,), node.outputs, {}, "g")).splitlines()

    assert [line.strip() for line in lines if "graph" in line][1:] == [
        "pieces.0 = graph step(%x: f32[6]) {",
        "pieces.1 = graph step(%x: f32[6]) {",
    ]
    with pytest.raises(IRParseError, match=r'"pieces.1" does not follow the one before it'):
        parse(text.replace("pieces.0", "pieces.1", 1))
