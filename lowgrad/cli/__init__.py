"""The command line: `lowgrad env | demo | bench | kernels | explain | ...`, one module for each.

A command is a module with `HELP`, `add_arguments(parser)` and `run(args) -> exit code`; what it
works with is imported by `run`, so that `lowgrad env` is quick. Add its name to `COMMANDS`.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module

from lowgrad.version import __version__

COMMANDS = ("env", "demo", "bench", "explain", "kernels", "eject", "report", "dump")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: it found a fault; 2: it could not be understood or started."""
    given = list(sys.argv[1:] if argv is None else argv)
    # argparse would take what follows -- for its own if an option stands before it.
    at = given.index("--") if "--" in given else len(given)
    own, theirs = given[:at], given[at + 1 :]
    args = _parser().parse_args(own)
    if theirs:
        args.arguments = [*getattr(args, "arguments", ()), *theirs]
    from lowgrad.errors import LowgradError, pass_over

    if argv is None:  # the installed script: its one line is nobody's mistake
        pass_over(sys.argv[0])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a letter of a file's name
            stream.reconfigure(errors="backslashreplace")
    try:
        code = int(import_module(f"lowgrad.cli.{args.command}").run(args))
        sys.stdout.flush()
        return code
    except LowgradError as error:
        print(f"lowgrad: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        sys.stderr.close()
        return 0
    except Exception as error:
        from lowgrad.cli.program import own_traceback

        shown = own_traceback(error)
        if shown is None and isinstance(error, OSError) and error.strerror:
            where = f"{error.filename}: " if error.filename else ""
            shown = f"lowgrad: {where}{error.strerror}\n"
        if shown is None:
            raise
        print(shown, file=sys.stderr, end="")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lowgrad", description="A graph compiler for training.")
    parser.add_argument("--version", action="version", version=f"lowgrad {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name in COMMANDS:
        module = import_module(f"lowgrad.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=_about(module.__doc__))
        module.add_arguments(command)
    return parser


def _about(doc: str | None) -> str:
    """A module's docstring as the command's description."""
    return (doc or "").replace("`", "").strip()
