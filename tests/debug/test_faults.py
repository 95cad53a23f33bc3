"""Planted wrong passes and wrong kernels: each is named, and cut down to a few operations."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import models
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.codegen.triton import emit
from lowgrad.debug import stages
from lowgrad.dump import dump
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.op import REGISTRY
from lowgrad.passes.pipeline import PIPELINE

MOST_LEFT = 6


def with_nodes(change, graph):
    """`graph` with each node as `change` gives it, those in regions too."""
    nodes = []
    for node in graph.nodes:
        if "body" in node.attrs:
            body = with_nodes(change, node.attrs["body"])
            node = Node(node.op, node.inputs, {**node.attrs, "body": body}, node.outputs, node.loc)
        nodes.append(change(node))
    return replace(graph, nodes=tuple(nodes))


def renamed(old, new):
    """Nodes of op `old` become those of `new`."""

    def change(node):
        if node.op.name != old:
            return node
        return Node(REGISTRY[new], node.inputs, node.attrs, node.outputs, node.loc)

    return lambda graph: with_nodes(change, graph)


def swapped(op):
    """Operands in the wrong order."""

    def change(node):
        if node.op.name != op:
            return node
        return Node(node.op, node.inputs[::-1], node.attrs, node.outputs, node.loc)

    return lambda graph: with_nodes(change, graph)


def constants_off(graph):
    def change(node):
        if node.op.name != "full" or node.attrs["value"] != 1.0:
            return node
        return Node(node.op, (), {**node.attrs, "value": 1.01}, node.outputs, node.loc)

    return with_nodes(change, graph)


def constants_merged(graph):
    """As if equality did not look at attributes: of constants of a type, all are the first."""
    first = {}
    kept, put = [], {}
    for node in graph.nodes:
        if node.op.name == "full":
            same = first.setdefault(node.output.type, node)
            put[node.output] = same.output
            if same is not node:
                continue
        inputs = tuple(put.get(v, v) for v in node.inputs)
        kept.append(Node(node.op, inputs, node.attrs, node.outputs, node.loc))
    outputs = tuple(put.get(v, v) for v in graph.outputs)
    return Graph(graph.inputs, tuple(kept), outputs, graph.aliases, graph.name)


def outputs_mixed_up(graph):
    """Of a region that returns two values of a type, both are the first."""

    def change(node):
        if node.op.name != "fused":
            return node
        body = node.attrs["body"]
        types = [v.type for v in body.outputs]
        outputs = tuple(body.outputs[types.index(t)] for t in types)
        wrong = replace(body, outputs=outputs)
        return Node(node.op, node.inputs, {**node.attrs, "body": wrong}, node.outputs, node.loc)

    return replace(graph, nodes=tuple(map(change, graph.nodes)))


PASSES = {
    "a difference turned round by dce": ("dce", swapped("sub")),
    "a constant off in fold": ("fold", constants_off),
    "a wrong rule of simplify": ("simplify", renamed("exp", "expm1")),
    "a quotient turned round by views": ("views", swapped("div")),
    "attributes forgotten by cse": ("cse", constants_merged),
    "a root made twice in cse": ("cse", renamed("sqrt", "rsqrt")),
    "a difference turned round in regions": ("fuse", swapped("sub")),
    "a region's outputs mixed up": ("fuse", outputs_mixed_up),
}
KERNELS = {
    "exp printed as exp2": lambda text: text.replace("tl.exp(", "tl.exp2("),
    "a sum that starts at one": lambda text: text.replace("tl.zeros(", "1.0 + tl.zeros("),
    "minus printed as plus": lambda text: text.replace(" - ", " + "),
}


@pytest.fixture
def planted(request, monkeypatch):
    name, change = request.param
    step = next(s for s in PIPELINE if s.name == name)
    right = step.run
    object.__setattr__(step, "run", lambda graph: change(right(graph)))
    yield name
    object.__setattr__(step, "run", right)


def dumped(folder):
    lowgrad.manual_seed(0)
    step, batch = models.MODELS["gelu_adam"]()
    return dump(lowgrad.compile(step).lower(*batch), folder)


@pytest.mark.parametrize("planted", PASSES.values(), ids=PASSES.keys(), indirect=True)
def test_a_wrong_pass_is_named_and_cut_down(planted, tmp_path):
    folder = dumped(tmp_path / "dump")

    fault = stages.first_wrong_pass(folder)

    assert fault is not None
    assert (fault.kind, fault.name) == ("pass", planted)
    assert stages.size_of(fault.graph) <= MOST_LEFT
    assert stages.pass_differs(planted, fault.graph, fault.arrays) > 0


@pytest.mark.parametrize("wrong", KERNELS.values(), ids=KERNELS.keys())
def test_a_wrong_kernel_is_named_and_cut_down(wrong, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    folder = dumped(tmp_path / "dump")
    right = emit.emit
    monkeypatch.setattr(emit, "emit", lambda kernel: wrong(right(kernel)))

    fault = stages.first_wrong_kernel(folder)

    assert fault is not None
    assert fault.kind == "kernel"
    assert stages.size_of(fault.graph) <= MOST_LEFT
    assert stages.kernels_differ(fault.graph, fault.arrays) > 0


def test_a_right_dump_has_no_fault(tmp_path):
    folder = dumped(tmp_path)

    assert stages.first_wrong_pass(folder) is None


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_no_model_has_one(name, tmp_path):
    step, batch = models.MODELS[name]()
    folder = dump(lowgrad.compile(step).lower(*batch), tmp_path)

    assert stages.first_wrong_pass(folder) is None


@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_nor_has_one_whose_products_are_in_16_bits(name, dtype, tmp_path):
    """Inside a region they are not rounded: a difference, and no fault."""
    step, batch = models.MODELS[name]()

    def mixed(*batch):
        with lowgrad.autocast("cpu", dtype=dtype):
            return step(*batch)

    folder = dump(lowgrad.compile(mixed).lower(*batch), tmp_path)

    assert stages.first_wrong_pass(folder) is None


def test_row_loops_are_replayed_as_they_were_asked_for(tmp_path):
    head = lowgrad.nn.Linear(16, 3000)
    step = lowgrad.compile(lambda x, y: F.cross_entropy(head(x), y), memory="1.1MB")
    folder = dump(step.lower(lowgrad.randn(64, 16), lowgrad.randint(0, 9, (64,))), tmp_path)

    assert "loops" in stages.passes_of(folder)
    assert stages.first_wrong_pass(folder) is None


@pytest.mark.parametrize(
    "planted", [PASSES["a wrong rule of simplify"]], ids=["simplify"], indirect=True
)
def test_what_is_found_is_saved_as_a_test(planted, tmp_path):
    fault = stages.first_wrong_pass(dumped(tmp_path / "dump"))

    path = stages.save_as_test(fault, tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    # The bug is planted in this process alone: the installed pass is right, and so passes.
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    namespace = {"__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    with pytest.raises(AssertionError):
        namespace["test_pass_simplify"]()
