"""Pages that are made from a real run or from the code itself, so that they cannot go stale."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
STEP = """\
import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim

lowgrad.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = optim.SGD(model.parameters(), lr=0.1)


@lowgrad.compile
def step(x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss
"""
# Stages that differ in more lines than this are folded.
SHORT = 40


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    sys.path.insert(0, str(ROOT))
    for name, lines in (("how-a-step-is-compiled.md", followed()), ("ops.md", operations())):
        files.append(File.generated(config, name, content="\n".join(lines) + "\n"))
    return files


# --- How a step is compiled ---


def followed() -> Iterator[str]:
    """A small classifier through every stage, as it came out when this page was built."""
    compiled = _compiled()
    graphs = compiled.graphs
    yield "# How a step is compiled"
    yield ""
    yield "A small classifier, followed from its Python to its kernels. All that is shown here "
    yield "came out of the compiler when this page was built."
    yield ""
    yield from _code("python", STEP)
    yield "## 1. Recording"
    yield ""
    yield "The first call runs the function once. Its operations go into a graph; nothing else of "
    yield "Python is left in it. Parameters and arguments are inputs, with the program's own names."
    yield ""
    yield from _code("text", str(graphs["trace"]))
    yield "## 2. Differentiation and the update"
    yield ""
    yield "`loss.backward()` appends the derivative of each operation, from the last to the first; "
    yield "`optimizer.step()` appends the updates. What was a parameter is now an input that an "
    yield f"output takes over. {len(graphs['autodiff'].nodes)} operations in all."
    yield ""
    yield from _folded("The whole graph", _lines("text", str(graphs["autodiff"])))
    yield "## 3. Passes"
    yield ""
    yield from _passes(graphs)
    yield "## 4. Memory"
    yield ""
    yield "Every value gets its place in one arena, before anything has run. What is updated is "
    yield "updated in place."
    yield ""
    yield from _code("text", str(compiled.plan))
    yield "## 5. Kernels"
    yield ""
    yield f"Each region becomes a Triton kernel: {compiled.cost}. The first of them, which is the "
    yield "first layer:"
    yield ""
    yield from _code("python", compiled.kernels[0].source)
    for kernel in compiled.kernels[1:]:
        yield from _folded(f"`{kernel.name}`", _lines("python", kernel.source))
    yield "## 6. Why these and no others"
    yield ""
    yield "`compiled.explain()` says what was fused and what was not, what holds the peak, and "
    yield "which kernels take the time."
    yield ""
    yield from _code("text", str(compiled.explain()))


def _compiled() -> Any:
    import lowgrad

    namespace: dict[str, Any] = {"__name__": "train"}
    exec(compile(STEP, "train.py", "exec"), namespace)
    x = lowgrad.TensorSpec((16, 64), lowgrad.float32)
    y = lowgrad.TensorSpec((16,), lowgrad.int64)
    return namespace["step"].lower(x, y)


def _passes(graphs: dict[str, Any]) -> Iterator[str]:
    from lowgrad.passes.pipeline import LOWER, SIMPLIFY

    names = list(graphs)
    steps = {step.name: step for step in (*SIMPLIFY, *LOWER)}
    for before, after in pairwise(names[1:]):
        old, new = str(graphs[before]).splitlines(), str(graphs[after]).splitlines()
        count = f"{len(graphs[before].nodes)} → {len(graphs[after].nodes)} operations"
        yield f"### {after}"
        yield ""
        if after in steps:
            yield _about(steps[after])
            yield ""
        if old == new:
            yield "Nothing to do in this step."
            yield ""
            continue
        changes = list(difflib.unified_diff(old, new, before, after, lineterm="", n=1))
        shown = _lines("diff", "\n".join(changes))
        if len(changes) <= SHORT:
            yield count
            yield ""
            yield from shown
        else:
            yield from _folded(f"{count}: what changed", shown)


def _about(step: Any) -> str:
    """The first paragraph of the file that the pass is."""
    module = inspect.getmodule(step.run) if hasattr(step, "run") else inspect.getmodule(step)
    text = (inspect.getdoc(module) or inspect.getdoc(step) or "").split("\n\n")[0]
    return " ".join(text.split())


# --- Operations ---


def operations() -> Iterator[str]:
    """Every op class, by family."""
    from lowgrad.ir.op import REGISTRY

    yield "# Operations"
    yield ""
    yield "All that a graph can consist of, from the classes themselves. An op's text here is its "
    yield "docstring: what it computes, and the rules for its operands and attributes."
    yield ""
    families: dict[str, list[Any]] = {}
    for op in REGISTRY.values():
        families.setdefault(op.family, []).append(op)
    for family, ops in families.items():
        yield f"## {family}"
        yield ""
        for op in sorted(ops, key=lambda op: str(op.name)):
            yield f"### {op.name}"
            yield ""
            yield inspect.getdoc(type(op)) or ""
            yield ""
            parameters = inspect.signature(op.infer).parameters.values()
            attrs = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
            if attrs:
                yield f"Attributes: {', '.join(f'`{name}`' for name in attrs)}."
                yield ""


# --- Markdown ---


def _lines(language: str, text: str) -> list[str]:
    return [f"```{language}", *text.rstrip("\n").splitlines(), "```", ""]


def _code(language: str, text: str) -> Iterator[str]:
    yield from _lines(language, text)


def _folded(title: str, lines: list[str]) -> Iterator[str]:
    yield f'??? note "{title}"'
    yield ""
    yield from (f"    {line}" if line else "" for line in lines)
    yield ""
