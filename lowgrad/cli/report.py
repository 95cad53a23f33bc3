"""One HTML page about a step: graph, kernels beside their IR, memory, passes, fusions."""

from __future__ import annotations

import argparse
from pathlib import Path

from lowgrad.cli.arguments import add_program, architecture

HELP = "one HTML page about a step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    add_program(parser)
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="(report.html)")
    parser.add_argument(
        "--arch", type=architecture, help="compile the kernels, to show their registers: sm_90"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    from lowgrad.cli.program import compiled_of

    options = {"device": "cuda", "target": args.arch} if args.arch else {}
    path = compiled_of(args.program, args.arguments, **options).report(args.out, arch=args.arch)
    print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")
    return 0
