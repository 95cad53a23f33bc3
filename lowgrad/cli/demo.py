"""Train the digits classifier with a compiled step, fused and not; write dumps and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from lowgrad.cli.arguments import positive

HELP = "train the digits classifier with a compiled step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    parser.add_argument("--out", type=Path, default=Path("lowgrad-demo"), help="folder to write to")
    parser.add_argument("--epochs", type=positive, default=20)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Train and compare."""
    from lowgrad.demo.run import demo

    demo(args.out, args.epochs, args.seed)
    return 0
