"""Every figure in one run: `python -m benchmarks.run [--quick] [--only SECTION] [--out FOLDER]`.

Prints tables; writes figures.json (with the machine and the versions) and PNGs to
benchmarks/results/. Exits with 1 if a ratio, a count or bytes miss their bound; seconds, which
depend on the machine, are shown with theirs, but fail nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import measure
from benchmarks.executed import executed
from benchmarks.figure import Section, show, write
from benchmarks.fusion import fusion
from benchmarks.looking import looking
from benchmarks.overheads import overheads
from benchmarks.pictures import draw
from benchmarks.planned import budgets, planned

RESULTS = Path(__file__).parent / "results"

# A section is made from `quick`: whether tiny sizes will do, to see that everything runs.
SECTIONS: dict[str, Callable[[bool], Section]] = {
    "gpt2": planned,
    "budgets": budgets,
    "overheads": overheads,
    "looking": looking,
    "executed": executed,
    "fusion": fusion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no bounds, no timing")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="may be given again")
    parser.add_argument("--out", type=Path, help="folder to write to; only whole runs have one")
    args = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    found: dict[str, Section] = {}
    for name in args.only or SECTIONS:
        section = SECTIONS[name](args.quick)
        found[name] = section.tiny() if args.quick else section
        show(found[name], console)
    out = args.out or (None if args.quick or args.only else RESULTS)
    if out is not None:
        write(found, measure.environment(), out / "figures.json")
        pictures = draw(found, out)
        console.print(f"\nwritten: {out / 'figures.json'}", *(str(p) for p in pictures), sep="\n  ")
    missed = [f for s in found.values() for f in s.figures if not f.holds]
    for f in missed:
        console.print(f"[bold red]missed[/bold red]  {f.name}: {f.value:.4g} {f.unit} {f.verdict}")
    return 1 if any(f.fails for f in missed) else 0


if __name__ == "__main__":
    sys.exit(main())
