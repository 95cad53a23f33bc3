"""Write a step as one Python file: kernels, memory and launches, to read, change and run.

The file needs only NumPy and Triton: `python step.py --interpret` runs one step on the CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lowgrad.cli.arguments import add_program, architecture

HELP = "the whole compiled step as one Python file that runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    add_program(parser)
    parser.add_argument("--out", type=Path, default=Path("step.py"), help="the file (step.py)")
    parser.add_argument("--arch", type=architecture, default="cuda:90", help="a GPU's (sm_90)")


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    from lowgrad.cli.program import compiled_of

    path = compiled_of(args.program, args.arguments).eject(args.out, args.arch)
    print(f"{path}: run it with  python {path} --interpret")
    return 0
