"""What several commands' arguments have in common."""

from __future__ import annotations

import argparse

PROGRAM = """\
FILE.py, or FILE.py:STEP to name a step: the script is run up to the first call of a compiled
function (of that name), and no further"""


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'must be a whole number from 1, not "{text}"')
    return int(text)


def architecture(text: str) -> str:
    """A target of Triton's: "sm_90", "90" and "cuda:90" are one; "gfx942" is "hip:gfx942"."""
    from lowgrad.codegen.gpus import AMD, NVIDIA

    name = text.lower().removeprefix("cuda:").removeprefix("hip:").removeprefix("sm_")
    if name.isdigit() and int(name) in NVIDIA:
        return f"cuda:{name}"
    if name in AMD:
        return f"hip:{name}"
    known = ", ".join((*(f"sm_{c}" for c in NVIDIA), *AMD))
    raise argparse.ArgumentTypeError(f'"{text}" is no architecture; there are {known}')


def add_program(parser: argparse.ArgumentParser) -> None:
    """The script, and what it is given."""
    parser.add_argument("program", metavar="FILE.py[:STEP]", help=PROGRAM)
    parser.add_argument(
        "arguments", nargs="*", default=(), metavar="ARG", help="arguments of the script, after --"
    )
