"""Imports point down: the layers of docs/design.md, checked on every import of every file.

`__init__` is the public `lowgrad.*`: what stands above it is written like a user's program.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "lowgrad"
LAYERS = """
    errors version | config matmul_precision spans | logs | ir | compare | ops | passes | runtime
    | codegen | devices budget explain eject report | nans | checked
    | compiler promotion generator | dump | debug | tape | dispatch
    | printing | tensor | autograd
    | functional | autocasting exchange backends | signature graphop history | recording | replay
    | transforms | __init__
    | amp cuda nn optim profiler utils distributed cli demo plots
"""
LAYER = {name: i for i, names in enumerate(LAYERS.split("|")) for name in names.split()}


def upward(source: str, file: str) -> Iterator[str]:
    """The imports of `file` (relative to the package) that point up or to a file without layer."""
    own = file.removesuffix(".py").split("/")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for parts in (path.split(".") for path in paths):
            to = parts[1] if len(parts) > 1 and parts[1] in LAYER else "__init__"
            if parts[0] == "lowgrad" and LAYER[to] > LAYER.get(own, len(LAYER)):
                yield f"lowgrad/{file}:{node.lineno}: {own} is below {to}, so it may not import it"


def test_imports_point_down():
    files = [path for path in ROOT.rglob("*.py") if not path.match("lowgrad/__init__.py")]

    faults = [
        fault
        for path in sorted(files)
        for fault in upward(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    ]

    assert not faults, "\n".join(faults)


def test_every_file_has_a_layer():
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}

    assert names - {"__pycache__", "py"} <= LAYER.keys(), "add the new one to LAYERS"


def test_planted_upward_imports_are_caught():
    def faults(source: str) -> list[str]:
        return list(upward(source, "ops/pointwise.py"))

    assert not faults("from lowgrad.ir.op import Op\nimport lowgrad.errors, numpy.nn")
    assert len(faults("from lowgrad.passes import fuse")) == 1
    assert len(faults("import numpy, lowgrad.nn.functional as F")) == 1
    assert len(faults("from lowgrad import tensor")) == 1
    assert len(faults("def f():\n    from lowgrad import zeros")) == 1
    assert len(faults("def f():\n    import lowgrad")) == 1
    assert not list(upward("import lowgrad as lg", "nn/modules/linears.py"))
    assert "lowgrad/ops/pointwise.py:2: " in faults("\nimport lowgrad.cli")[0]
