"""The command line: `lowgrad env | demo | bench | kernels | explain | ...`, one module for each.

A command is a module with `HELP`, `add_arguments(parser)` and `run(args) -> exit code`; what it
works with is imported by `run`, so that `lowgrad env` is quick. Add its name to `COMMANDS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("env", "demo", "bench", "explain", "kernels", "eject", "report", "dump")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: it found a fault; 2: it could not be understood or started."""
    args = _parser().parse_args(argv)
    from lowgrad.errors import LowgradError, pass_over

    if argv is None:  # the installed script: its one line is nobody's mistake
        pass_over(sys.argv[0])
    try:
        return int(import_module(f"lowgrad.cli.{args.command}").run(args))
    except LowgradError as error:
        print(f"lowgrad: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        sys.stderr.close()
        return 0
    except Exception as error:
        from lowgrad.cli.program import own_traceback

        shown = own_traceback(error)
        if shown is None:
            raise
        print(shown, file=sys.stderr, end="")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lowgrad", description="A graph compiler for training.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name in COMMANDS:
        module = import_module(f"lowgrad.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=_about(module.__doc__))
        module.add_arguments(command)
    return parser


def _about(doc: str | None) -> str:
    """A module's docstring as the command's description."""
    return (doc or "").replace("`", "").strip()
