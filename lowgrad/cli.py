"""The command line: `lowgrad env | demo | bench`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REQUIRED = ("numpy", "ml_dtypes", "scipy", "networkx")
OPTIONAL = ("triton", "matplotlib", "scikit-learn", "rich", "torch")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: it failed; 2: it could not be understood or started."""
    args = _parser().parse_args(argv)
    # Heavy parts are imported by the command that needs them.
    from lowgrad.errors import LowgradError

    try:
        command: Callable[[Any], int] = args.command
        return command(args)
    except LowgradError as error:
        print(f"lowgrad: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lowgrad", description="A graph compiler for training.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    env = commands.add_parser("env", help="what is installed, and what can run here")
    env.add_argument("--json", action="store_true", help="as JSON")
    env.set_defaults(command=_env)
    demo = commands.add_parser("demo", help="train the digits classifier with a compiled step")
    demo.add_argument("--out", type=Path, default=Path("lowgrad-demo"), help="folder to write to")
    demo.add_argument("--epochs", type=_positive, default=20)
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(command=_demo)
    bench = commands.add_parser("bench", help="fused against unfused, on the demo's step")
    bench.add_argument("--epochs", type=_positive, default=5)
    bench.set_defaults(command=_bench)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'must be a whole number from 1, not "{text}"')
    return int(text)


def _env(args: argparse.Namespace) -> int:
    facts = environment()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
    return 1 if any(facts[name] == "missing" for name in REQUIRED) else 0


def environment() -> dict[str, str]:
    """Versions of what lowgrad needs and can use, and what can be done here."""
    import lowgrad
    from lowgrad import config

    facts = {
        "lowgrad": lowgrad.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in (*REQUIRED, *OPTIONAL):
        facts[name] = _version(name)
    has_triton = facts["triton"] != "missing"
    facts["devices"] = "cpu, interpret" if has_triton else "cpu"
    facts["kernels"] = "generated, checked and cross-compiled" if has_triton else "generated"
    facts["cache"] = str(config.cache_dir())
    return facts


def _version(name: str) -> str:
    try:
        if name in REQUIRED:
            import_module(name)
        return version(name)
    except (PackageNotFoundError, ImportError):
        return "missing"


def _demo(args: argparse.Namespace) -> int:
    from lowgrad.demo.run import demo

    demo(args.out, args.epochs, args.seed)
    return 0


def _bench(args: argparse.Namespace) -> int:
    import copy

    import lowgrad
    from lowgrad.demo.digits import Net, digits
    from lowgrad.demo.run import table, train

    lowgrad.manual_seed(0)
    training, _ = digits()
    net = Net()
    twin = copy.deepcopy(net)
    fused = train(net, training, args.epochs, fuse=True)
    print(table(fused, train(twin, training, args.epochs, fuse=False)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
