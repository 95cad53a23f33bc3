"""What every graph has to satisfy; tests check it after every pass."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from lowgrad.errors import LowgradError, VerifyError
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.lex import marked
from lowgrad.ir.op import outputs_of
from lowgrad.ir.text import graph_lines, value_name
from lowgrad.ir.walk import alias_fault

# Lines shown before and after the faulty one: with it and its carets they fit an error's height.
_AROUND = 2


class _Fault(NamedTuple):
    """A sentence with `{}` for the name of `value`, which the carets stand under."""

    text: str
    value: Value | None = None


def verify(graph: Graph) -> None:
    """Raise VerifyError, showing the place in the graph's text, unless it is a correct program.

    Each value is defined once, before it is used; types are those that ops infer; aliases take over
    inputs of their own types, each at most once; the bodies of regions are correct too.
    """
    defined: set[Value] = set()
    for value in graph.inputs:
        if value in defined:
            _fail(graph, _Fault("the input {} is there twice", value), line=0)
        defined.add(value)
    for number, node in enumerate(graph.nodes):
        _verify_bodies(node)
        fault = _operand_fault(node, defined) or _type_fault(node) or _output_fault(node, defined)
        if fault:
            _fail(graph, fault, line=graph_lines(graph).starts[number])
        defined.update(node.outputs)
    for value in graph.outputs:
        if value not in defined:
            _fail(graph, _Fault("the output {} is defined nowhere", value), line=-2)
    wrong = alias_fault(graph)
    if wrong:
        _fail(graph, _Fault(wrong), line=0)


def _verify_bodies(node: Node) -> None:
    for attr in node.attrs.values():
        if isinstance(attr, Graph):
            verify(attr)


def _operand_fault(node: Node, defined: set[Value]) -> _Fault | None:
    for value in node.inputs:
        if value not in defined:
            return _Fault(f"{node.op.name} uses {{}}, which is not defined before it", value)
    return None


def _type_fault(node: Node) -> _Fault | None:
    types = tuple(v.type for v in node.inputs)
    try:
        inferred = outputs_of(node.op, types, dict(node.attrs))
    except LowgradError as error:
        return _Fault(_literally(error.message))
    except TypeError as error:
        # A wrong number of operands, an attribute missing or of another kind.
        return _Fault(_literally(f"{node.op.name}: {error}"))
    if len(inferred) != len(node.outputs):
        return _Fault(f"{node.op.name} has {len(inferred)} results, not {len(node.outputs)}")
    for value, type_ in zip(node.outputs, inferred, strict=True):
        if value.type != type_:
            return _Fault(f"{node.op.name} gives {type_}, but {{}} is {value.type}", value)
    return None


def _output_fault(node: Node, defined: set[Value]) -> _Fault | None:
    for number, value in enumerate(node.outputs):
        if value in defined or value in node.outputs[:number]:
            return _Fault("{} is defined twice", value)
    return None


def _literally(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _fail(graph: Graph, fault: _Fault, line: int) -> NoReturn:
    printed = graph_lines(graph)
    line %= len(printed.lines)
    text = printed.lines[line]
    name = value_name(fault.value, printed.names) if fault.value else ""
    word = name or text.strip()
    shown, carets = marked(text, text.index(word) + 1, len(word))
    before = printed.lines[max(line - _AROUND, 0) : line]
    after = printed.lines[line + 1 : line + 1 + _AROUND]
    raise VerifyError(
        f"{graph.name}: {fault.text.format(name)}",
        operands=["  " + row for row in before] + [shown, carets] + ["  " + row for row in after],
        at="",
    )
