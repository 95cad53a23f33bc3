"""Why a step became what it is: fusions made and refused, what was traded for memory, who holds
the peak, which kernels take most of the time, and what smaller budgets would cost.
"""

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
    from lowgrad.runtime.memory import human
    from lowgrad.transforms import bytes_of

    options = {"memory": bytes_of(args.memory)} if args.memory else {}
    compiled = first_call(args.program, args.arguments).lower(**options)
    print(compiled.explain())
    if not args.memory:
        print(f"budgets, against a peak of {human(compiled.plan.peak_bytes)}")
        for offer in compiled.budgets():
            print(f"  {offer}")
    return 0
