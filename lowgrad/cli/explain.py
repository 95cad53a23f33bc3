"""Why a step became what it is: fusions made and refused, and what was traded for memory."""

from __future__ import annotations

import argparse

from lowgrad.cli.arguments import add_program

HELP = "why a step became the kernels that it is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    add_program(parser)
    parser.add_argument("--memory", help='plan with this budget, such as "2GiB"')


def run(args: argparse.Namespace) -> int:
    """Print the explanation."""
    from lowgrad.cli.program import first_call
    from lowgrad.transforms import bytes_of

    options = {"memory": bytes_of(args.memory)} if args.memory else {}
    print(first_call(args.program, args.arguments).lower(**options).explain())
    return 0
