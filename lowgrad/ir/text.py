"""Graphs as text, and text as graphs. What is printed parses, and the result prints the same.

    graph step(%x: f32[64,784], %w: f32[128,784]) aliases {0: 1} {
      %0 = permute %w {dims=(1, 0)} : f32[784,128]
      %1 = matmul %x, %0 : f32[64,128]
      return %w, %1
    }

A name is the value's hint, or a number. A region's body stands in braces behind its node.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowgrad.errors import LowgradError
from lowgrad.ir.graph import Graph, Location, Node, Value
from lowgrad.ir.lex import Reader, Token, quoted, suggestion
from lowgrad.ir.op import REGISTRY, Op, outputs_of
from lowgrad.ir.types import BY_SHORT, DType, TensorType
from lowgrad.ir.walk import alias_fault

# Bounds on what a text may ask for, so that a bad one costs an error and neither time nor memory.
MAX_DEPTH = 32
MAX_RANK = 32
MAX_ELEMENTS = 1 << 62
MAX_TUPLE = 1 << 16
MAX_DIGITS = 20

_UNFIT = re.compile(r"[^A-Za-z0-9_.]")
_LOCATION = re.compile(r"@ (.+):([0-9]{1,9}) in (.+)")
_CONSTANTS: dict[str, Any] = {
    "True": True,
    "False": False,
    "None": None,
    "inf": float("inf"),
    "-inf": float("-inf"),
    "nan": float("nan"),
    **BY_SHORT,
}


# --- Printing ----------------------------------------------------------------------------------


class Printed(NamedTuple):
    """Lines of text, the number of each node's first one, and the names used in them."""

    lines: list[str]
    starts: list[int]
    names: Mapping[Value, str]


def print_graph(graph: Graph, *, locations: bool = False) -> str:
    """`graph` as text that `parse` reads; if asked, with the user's line behind each node."""
    return "\n".join(graph_lines(graph, locations=locations).lines)


def graph_lines(
    graph: Graph, *, locations: bool = False, names: Mapping[Value, str] | None = None
) -> Printed:
    """`graph` as text, line by line; also one that is broken, with `%?` for undefined values.

    names: what the values are called, if not by the rules of `docs/ir.md`.
    """
    names = _names(graph) if names is None else names
    inputs = ", ".join(f"{value_name(v, names)}: {v.type}" for v in graph.inputs)
    lines = [f"graph {_graph_name(graph)}({inputs}){_aliases(graph.aliases)} {{"]
    starts = []
    for node in graph.nodes:
        starts.append(len(lines))
        lines += ["  " + line for line in _node_lines(node, names, locations)]
    lines.append(f"  return {_listed(graph.outputs, names)}".rstrip())
    lines.append("}")
    return Printed(lines, starts, names)


def node_text(graph: Graph, node: Node) -> str:
    """The first line of `node` in the text of `graph`."""
    printed = graph_lines(graph)
    return printed.lines[printed.starts[graph.nodes.index(node)]].strip()


def value_name(value: Value, names: Mapping[Value, str]) -> str:
    """`%x`, or `%?x` if nothing defines the value."""
    return "%" + (names.get(value) or "?" + _fit(value.hint))


def _node_lines(node: Node, names: Mapping[Value, str], locations: bool) -> list[str]:
    attrs = sorted(node.attrs.items())
    bodies = [pair for k, v in attrs for pair in _graphs(k, v)]
    plain = ", ".join(f"{k}={_attr(v)}" for k, v in attrs if not any(_graphs(k, v)))
    types = ", ".join(str(v.type) for v in node.outputs)
    head = f"{_listed(node.outputs, names)} = {node.op.name} {_listed(node.inputs, names)}".rstrip()
    lines = [head + (f" {{{plain}}}" if plain else "") + f" : {types}"]
    if bodies:
        lines[0] += " {"
        for key, body in bodies:
            lines += ["  " + line for line in _body_lines(key, body, locations)]
        lines.append("}")
    if locations and node.loc is not None:
        file, line, function = (str(part).replace("\n", " ") for part in node.loc)
        lines[-1] += f"  @ {file}:{line} in {function}"
    return lines


def _graphs(key: str, value: Any) -> Iterator[tuple[str, Graph]]:
    """An attribute's graph with its name; the graphs of a tuple are "pieces.0", "pieces.1"."""
    if isinstance(value, Graph):
        yield key, value
    elif isinstance(value, tuple) and value and all(isinstance(v, Graph) for v in value):
        yield from ((f"{key}.{number}", graph) for number, graph in enumerate(value))


def _body_lines(key: str, body: Graph, locations: bool) -> list[str]:
    lines = graph_lines(body, locations=locations).lines
    if _graph_name(body) != key:
        lines[0] = f"{key} = {lines[0]}"
    return lines


def _names(graph: Graph) -> dict[Value, str]:
    """A name for each value: inputs keep their hints, made unique; others do if nothing has it."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    numbers = itertools.count()
    for value in graph.inputs:
        hint = _unique(_fit(value.hint), taken)
        names.setdefault(value, hint or str(next(numbers)))
        taken.add(hint)
    for value in (v for node in graph.nodes for v in node.outputs if v not in names):
        hint = _fit(value.hint)
        names[value] = hint if hint and hint not in taken else str(next(numbers))
        taken.add(hint)
    return names


def _unique(hint: str, taken: set[str]) -> str:
    tails = itertools.chain([""], (f"_{n}" for n in itertools.count(1)))
    return hint and next(hint + tail for tail in tails if hint + tail not in taken)


def _fit(hint: str) -> str:
    """`hint` as a name, or nothing: names of digits alone are those of values without hints."""
    name = _UNFIT.sub("_", hint)
    return "" if name.isdigit() else name


def _graph_name(graph: Graph) -> str:
    name = _UNFIT.sub("_", graph.name)
    return name if name[:1].isalpha() or name[:1] == "_" else f"graph{name}"


def _listed(values: Sequence[Value], names: Mapping[Value, str]) -> str:
    return ", ".join([value_name(v, names) for v in values])


def _aliases(aliases: Mapping[int, int]) -> str:
    if not aliases:
        return ""
    return " aliases {" + ", ".join(f"{o}: {i}" for o, i in sorted(aliases.items())) + "}"


def _attr(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()  # NumPy 2 would print np.float32(0.1)
    if isinstance(value, DType):
        return value.short
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        inner = ", ".join(map(_attr, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


# --- Parsing: graphs and nodes -----------------------------------------------------------------


def parse(text: str, file: str = "<ir>") -> Graph:
    """The graph that `text` describes. Raises IRParseError, pointing at the faulty word.

    file: what the text is called in errors.
    """
    reader = Reader(text, file)
    graph = _graph(reader, depth=0)
    if reader.token.kind != "end":
        reader.fail(f"expected the end of the text, found {reader.token}")
    return graph


def _graph(reader: Reader, depth: int) -> Graph:
    start = reader.expect("graph")
    if depth > MAX_DEPTH:
        reader.fail(f"graphs nest deeper than {MAX_DEPTH}", start)
    name = reader.expect_kind("word", "the graph's name").text
    scope: dict[str, Value] = {}
    inputs = _inputs(reader, scope)
    at = reader.token
    aliases = _alias_table(reader)
    reader.expect("{")
    nodes = []
    while not reader.accept("return"):
        if reader.token.kind != "value":
            reader.fail(f'expected a value\'s name or "return", found {reader.token}')
        nodes.append(_node(reader, scope, depth))
    outputs = _operands(reader, scope)
    reader.expect("}")
    graph = Graph(inputs, tuple(nodes), outputs, aliases, name)
    fault = alias_fault(graph)
    if fault:
        reader.fail(fault, at)
    return graph


def _inputs(reader: Reader, scope: dict[str, Value]) -> tuple[Value, ...]:
    inputs: list[Value] = []
    reader.expect("(")
    while not reader.accept(")"):
        if inputs:
            reader.expect(",")
        name = reader.expect_kind("value", "an input's name")
        reader.expect(":")
        inputs.append(_define(reader, scope, name, _type(reader)))
    return tuple(inputs)


def _alias_table(reader: Reader) -> dict[int, int]:
    aliases: dict[int, int] = {}
    if not reader.accept("aliases"):
        return aliases
    reader.expect("{")
    while not reader.accept("}"):
        if aliases:
            reader.expect(",")
        at = reader.token
        output = _int(reader, "an output's number")
        if output in aliases:
            reader.fail(f"output {output} has an alias already", at)
        reader.expect(":")
        aliases[output] = _int(reader, "an input's number")
    return aliases


def _node(reader: Reader, scope: dict[str, Value], depth: int) -> Node:
    names = [reader.expect_kind("value", "a value's name")]
    while reader.accept(","):
        names.append(reader.expect_kind("value", "a value's name"))
    reader.expect("=")
    word = reader.expect_kind("word", "an op's name")
    op = REGISTRY.get(word.text)
    if op is None:
        reader.fail(f"there is no op {quoted(word.text)}{suggestion(word.text, REGISTRY)}", word)
    inputs = _operands(reader, scope)
    attrs = _attrs(reader, op)
    reader.expect(":")
    types_at = reader.token
    types = [_type(reader)]
    while reader.accept(","):
        types.append(_type(reader))
    if reader.accept("{"):
        _bodies(reader, op, attrs, depth)
    loc = _location(reader)
    _check_call(reader, word, op, inputs, attrs)
    _check_types(reader, word, types_at, types, _inferred(reader, word, op, inputs, attrs))
    if len(names) != len(types):
        reader.fail(f"{len(names)} names for {len(types)} results of {op.name}", names[0])
    outputs = [_define(reader, scope, n, t) for n, t in zip(names, types, strict=True)]
    return Node(op, inputs, attrs, tuple(outputs), loc)


def _operands(reader: Reader, scope: Mapping[str, Value]) -> tuple[Value, ...]:
    """Names of values, as many as there are."""
    values: list[Value] = []
    while reader.token.kind == "value" or values:
        token = reader.expect_kind("value", "a value's name")
        value = scope.get(token.text)
        if value is None:
            hint = suggestion(token.text, reversed(list(scope)))
            reader.fail(f"{quoted(token.text)} is not defined before this line{hint}", token)
        values.append(value)
        if not reader.accept(","):
            break
    return tuple(values)


def _define(reader: Reader, scope: dict[str, Value], name: Token, type_: TensorType) -> Value:
    if name.text in scope:
        reader.fail(f"{quoted(name.text)} is defined twice", name)
    value = Value(type_, _fit(name.text[1:]))
    scope[name.text] = value
    return value


def _bodies(reader: Reader, op: Op, attrs: dict[str, Any], depth: int) -> None:
    """The graphs among the attributes, up to the closing brace: `body = graph b(...) {...}`.

    `pieces.0 = graph ...` is the first of a tuple of graphs.
    """
    while not reader.accept("}"):
        start = reader.token
        key = None if start.text == "graph" else _key(reader, op, attrs)
        graph = _graph(reader, depth + 1)
        key = key or graph.name
        base, _, number = key.partition(".")
        if number:
            before = attrs.setdefault(base, ())
            if not isinstance(before, tuple) or number != str(len(before)):
                reader.fail(f"{quoted(key)} does not follow the one before it", start)
            attrs[base] = (*before, graph)
            continue
        if key in attrs:
            reader.fail(f"{op.name} has {quoted(key)} already", start)
        attrs[key] = graph


def _location(reader: Reader) -> Location | None:
    if reader.token.text != "@":
        return None
    token = reader.rest_of_line()
    found = _LOCATION.fullmatch(token.text)
    if found is None:
        reader.fail('expected a location like "@ model.py:14 in forward"', token)
    file, line, function = found.groups()
    return Location(file, int(line), function)


# --- Parsing: types and attributes -------------------------------------------------------------


def _type(reader: Reader) -> TensorType:
    word = reader.expect_kind("word", "a type")
    dtype = BY_SHORT.get(word.text)
    if dtype is None:
        reader.fail(f"there is no dtype {quoted(word.text)}{suggestion(word.text, BY_SHORT)}", word)
    reader.expect("[")
    shape: list[int] = []
    numel = 1
    while not reader.accept("]"):
        if shape:
            reader.expect(",")
        at = reader.token
        shape.append(_int(reader, "a size"))
        numel *= max(shape[-1], 1)
        if shape[-1] < 0:
            reader.fail("a size is negative", at)
        if numel > MAX_ELEMENTS or len(shape) > MAX_RANK:
            reader.fail(f"types have up to {MAX_RANK} dims and 2^62 elements", at)
    return TensorType(tuple(shape), dtype)


def _attrs(reader: Reader, op: Op) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    if not reader.accept("{"):
        return attrs
    while not reader.accept("}"):
        if attrs:
            reader.expect(",")
        key = _key(reader, op, attrs)
        attrs[key] = _value(reader, depth=0)
    return attrs


def _key(reader: Reader, op: Op, attrs: Mapping[str, Any]) -> str:
    """An attribute's name and the sign behind it."""
    word = reader.expect_kind("word", "an attribute's name")
    if word.text in attrs:
        reader.fail(f"{op.name} has {quoted(word.text)} already", word)
    reader.expect("=")
    return word.text


def _value(reader: Reader, depth: int) -> Any:
    token = reader.token
    if token.text == "(" and token.kind == "mark":
        return _tuple(reader, depth)
    if token.text in _CONSTANTS:
        return _CONSTANTS[reader.advance().text]
    if token.kind == "int":
        return _int(reader, "a number")
    if token.kind == "float":
        return float(reader.advance().text)
    if token.kind == "string":
        return _string(reader)
    hint = suggestion(token.text, _CONSTANTS) if token.kind == "word" else ""
    reader.fail(f"expected a value of an attribute, found {token}{hint}")


def _tuple(reader: Reader, depth: int) -> tuple[Any, ...]:
    start = reader.expect("(")
    if depth >= MAX_DEPTH:
        reader.fail(f"tuples nest deeper than {MAX_DEPTH}", start)
    items: list[Any] = []
    while not reader.accept(")"):
        items.append(_value(reader, depth + 1))
        if len(items) > MAX_TUPLE:
            reader.fail(f"the tuple has more than {MAX_TUPLE} items", start)
        if reader.token.text != ")":
            reader.expect(",")
        elif len(items) == 1:
            reader.fail('a tuple of one is written with a comma: "(1,)"', start)
    return tuple(items)


def _int(reader: Reader, what: str) -> int:
    if len(reader.token.text) > MAX_DIGITS and reader.token.kind == "int":
        reader.fail(f"a number has more than {MAX_DIGITS} digits")
    return int(reader.expect_kind("int", what).text)


def _string(reader: Reader) -> str:
    try:
        text: str = json.loads(reader.token.text)
    except ValueError:
        reader.fail("the string has an escape that JSON does not know")
    reader.advance()
    return text


# --- Parsing: does the op allow it? ------------------------------------------------------------


def _check_call(
    reader: Reader, word: Token, op: Op, inputs: tuple[Value, ...], attrs: Mapping[str, Any]
) -> None:
    """Whether `infer` takes so many operands and attributes of these names."""
    parameters = inspect.signature(op.infer).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    if not takes_any and len(inputs) != count:
        reader.fail(f"{op.name} takes {count} operands, not {len(inputs)}", word)
    for name in attrs:
        if name not in names:
            hint = suggestion(name, names)
            reader.fail(f"{op.name} has no attribute {quoted(name)}{hint}", word)
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    for name in needed:
        if name not in attrs:
            reader.fail(f"{op.name} needs the attribute {quoted(name)}", word)


def _inferred(
    reader: Reader, word: Token, op: Op, inputs: tuple[Value, ...], attrs: dict[str, Any]
) -> tuple[TensorType, ...]:
    types = tuple(v.type for v in inputs)
    try:
        made = outputs_of(op, types, attrs)
    except LowgradError as error:
        reader.fail(error.message, word)
    except Exception:
        made = None
    # Attributes of any Python type come here, and `infer` is written for those of its own.
    if made is None or not all(map(_is_type, made)):
        reader.fail(f"{op.name} does not take attributes of these types", word)
    return made


def _is_type(made: TensorType) -> bool:
    """Whether all in it is of its own kind: a size may not be 2.0, nor a bool."""
    return isinstance(made.dtype, DType) and all(type(size) is int for size in made.shape)


def _check_types(
    reader: Reader,
    word: Token,
    at: Token,
    written: Sequence[TensorType],
    inferred: Sequence[TensorType],
) -> None:
    if len(written) != len(inferred):
        reader.fail(f"{word.text} has {len(inferred)} results, not {len(written)}", at)
    for type_, other in zip(written, inferred, strict=True):
        if type_ != other:
            reader.fail(f"{word.text} gives {other}, not {type_}", at)
