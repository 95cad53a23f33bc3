"""Work with dumps: write one, run a stage, compare two, find the pass or kernel that is wrong.

A dump is what LOWGRAD_DUMP=dir writes for each recorded step: the IR after each pass, the memory
plan, the kernels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowgrad.cli.arguments import add_program, positive

HELP = "write, run, compare and check dumps of the IR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text)
        made.set_defaults(action=run)
        return made

    write = action("write", _write, "write the dump of a step of a script")
    add_program(write)
    write.add_argument("--out", type=Path, default=Path("dump"), help="the folder (dump)")
    write.add_argument("--lines", action="store_true", help="the user's line behind each node")

    run = action("run", _run, "interpret one stage, on saved or made-up inputs")
    run.add_argument("file", type=Path, metavar="FILE.ir")
    run.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays, in order")
    run.add_argument("--seed", type=int, default=0, help="of made-up inputs (0)")
    run.add_argument("--out", type=Path, metavar="FILE.npz", help="save the outputs")
    run.add_argument(
        "--check",
        action="store_true",
        help="also run what a CPU runs, and the kernels, interpreted; 1 if one of them is wrong",
    )

    diff = action("diff", _diff, "what two stages differ in, by meaning; 1 if they do")
    diff.add_argument("one", type=Path, metavar="A.ir")
    diff.add_argument("other", type=Path, metavar="B.ir")

    check = action(
        "check", _check, "run every stage on the same inputs; name the first that is wrong"
    )
    check.add_argument("folder", type=Path, metavar="DIR")
    check.add_argument("--kernels", action="store_true", help="also each kernel, interpreted")
    check.add_argument(
        "--seconds", type=positive, default=60, help="the most to spend on cutting down (60)"
    )

    passes = action("passes", _passes, "run the pipeline from a stage on")
    passes.add_argument("file", type=Path, metavar="FILE.ir")
    passes.add_argument("--from", dest="first", metavar="PASS", help="the first pass (simplify's)")
    passes.add_argument("--to", dest="last", metavar="PASS", help="the last pass")
    passes.add_argument("--out", type=Path, metavar="DIR", help="write each result there")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return int(args.action(args))


def _write(args: argparse.Namespace) -> int:
    from lowgrad.cli.program import compiled_of
    from lowgrad.dump import dump

    folder = dump(compiled_of(args.program, args.arguments), args.out, lines=args.lines)
    print(f"{folder}: {len(list(folder.glob('*.ir')))} stages")
    return 0


def _read(path: Path) -> Any:
    from lowgrad.errors import ArgumentError
    from lowgrad.ir.text import parse

    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise ArgumentError(f'"{path}" cannot be read: {error.strerror}') from error
    return parse(text, str(path))


def _run(args: argparse.Namespace) -> int:
    import numpy as np

    from lowgrad.cli.output import show_table
    from lowgrad.compare import wide
    from lowgrad.debug.inputs import made_up, save, saved
    from lowgrad.ir.interpret import interpret

    graph = _read(args.file)
    arrays = saved(graph, args.inputs) if args.inputs else made_up(graph, args.seed)
    outputs = interpret(graph, *arrays)
    rows = []
    for number, (value, array) in enumerate(zip(graph.outputs, outputs, strict=True)):
        floats = wide(array)
        finite = floats[np.isfinite(floats)]
        numbers = [f"{f(finite):.6g}" if finite.size else "" for f in (np.mean, np.min, np.max)]
        rows.append((value.hint or number, value.type, *numbers, floats.size - finite.size))
    headers = ("output", "type", "mean", "least", "most", "not finite")
    show_table(headers, rows, left=2, title=graph.name)
    if args.out:
        save(args.out, outputs)
    return _check_run(graph, arrays, outputs) if args.check else 0


def _check_run(graph: Any, arrays: Any, expected: Any) -> int:
    """Run the graph by what is generated for it; 1 if that differs from the interpreter."""
    from lowgrad.debug.stages import generated

    code = 0
    for name, faults in generated(graph, arrays, expected):
        code = 1 if faults else code
        print(f"{name}: {'; '.join(faults) or 'the same'}")
    return code


def _diff(args: argparse.Namespace) -> int:
    from lowgrad.cli.output import is_terminal
    from lowgrad.debug.diff import difference

    found = difference(_read(args.one), _read(args.other))
    colours = {"-": "\033[31m", "+": "\033[32m"} if is_terminal() else {}
    for line in found.lines():
        colour = colours.get(line[:1], "")
        print(f"{colour}{line}\033[0m" if colour else line)
    return 0 if found.is_empty else 1


def _check(args: argparse.Namespace) -> int:
    from lowgrad.debug.stages import (
        first_wrong_kernel,
        first_wrong_pass,
        save_as_test,
        size_of,
        stages,
    )

    names = [stage.name for stage in stages(args.folder)]
    print(f"{len(names)} stages: {', '.join(names)}")
    fault = first_wrong_pass(args.folder, seconds=args.seconds)
    if fault is None and args.kernels:
        fault = first_wrong_kernel(args.folder, seconds=args.seconds)
    if fault is None:
        also = ", and every kernel equals the reference" if args.kernels else ""
        print(f"all give the same outputs{also}")
        return 0
    what = f"after {fault.name}" if fault.kind == "pass" else f"in the kernel of {fault.name}"
    print(f"the outputs differ {what}, by {fault.apart:.2g} of the largest element")
    if not fault.is_shown:
        print(
            f"{fault.name}, as it is installed, does not: its file was changed, or written by "
            "another version or with another pass. To cut it down, write the dump anew."
        )
        return 1
    print(f"{size_of(fault.graph)} operations still show it:\n\n{fault.graph}\n")
    print(f"saved as {save_as_test(fault, args.folder)}")
    return 1


def _passes(args: argparse.Namespace) -> int:
    from lowgrad.debug.replay import replayed

    rows = []
    for number, stage in enumerate(replayed(_read(args.file), args.file, args.first, args.last)):
        rows.append((stage.name, stage.before, stage.after, f"{stage.ms:.1f}"))
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{number:02d}-{stage.name}.ir").write_text(f"{stage.graph}\n")
        last = stage.graph
    if not args.out and rows:
        print(last)
    from lowgrad.cli.output import plain_table

    cells = [[str(cell) for cell in row] for row in rows]
    print(plain_table(("pass", "nodes before", "after", "ms"), cells), file=sys.stderr)
    return 0
