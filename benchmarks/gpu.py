"""What only a GPU can show: `python -m benchmarks.gpu [--part NAME] [--limit SECONDS] [--out DIR]`.

Without --part all parts run, one after the other, each in a process of its own; each can also be
run by itself, in a slice, and what is found is merged. --list names them. Writes results.json,
results.md and pictures to benchmarks/results/gpu/<device>/, or to DIR/<device>/.

Exits with 0 if all parts ran to their end, 1 if one did not, 2 without a GPU. A target that is
missed, or a row that failed, is told in the results and is no failure of the run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_parts import machine, report, runner, store
from benchmarks.gpu_parts.machine import Machine
from benchmarks.gpu_parts.parts import PARTS

RESULTS = Path(__file__).parent / "results"
LIMIT_S = 570.0
NO_GPU = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, merge, write; see the module's text."""
    args = _parsed(arguments)
    if args.list:
        print("\n".join(f"{p.name:24} {p.minutes:>4g} min  {p.title}" for p in PARTS.values()))
        print(f"{'in all':24} {sum(p.minutes for p in PARTS.values()):>4g} min")
        return 0
    if args.merge is not None:
        return _merge(args.merge, args.out)
    found = machine.find(args.python)
    if isinstance(found, str):
        print(f"make gpu: there is no GPU to measure on.\n\n{found}\n\n{machine.NOTHING_TO_DO}")
        return NO_GPU
    folder = args.out / ("gpu" if args.out == RESULTS else ".") / found.folder
    names = args.part or list(PARTS)
    if args.resume:
        names = [n for n in names if not _is_done(folder, n)]
    print(f"{found.name}: {len(names)} parts, into {folder}", flush=True)
    ended = [_run(name, folder, found, args) for name in names]
    _finish(folder, args.out)
    return 0 if all(ended) else 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--list", action="store_true", help="name the parts, with minutes")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be given again")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for each part")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the device's folder goes")
    parser.add_argument("--resume", action="store_true", help="leave out parts that are done")
    parser.add_argument("--merge", type=Path, help="merge the devices' folders in DIR, run nothing")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _run(name: str, folder: Path, found: Machine, args: argparse.Namespace) -> bool:
    """One part, merged into the results; whether it ran to its end."""
    scratch = folder / "running"
    scratch.mkdir(parents=True, exist_ok=True)
    store.recover(folder, found, scratch)
    print(f"{name} (about {PARTS[name].minutes:g} min, at most {args.limit / 60:g})", flush=True)
    more = ["--tiny"] if args.tiny else []
    outcome = runner.run(
        name,
        scratch / f"{name}.jsonl",
        args.limit,
        python=args.python,
        arguments=[*more, "--python", *args.python],
    )
    record = store.add(folder, found, outcome)
    shutil.rmtree(scratch)
    report.write(folder, record)
    print(f"  {outcome.status} in {outcome.seconds:.0f} s {outcome.error}", flush=True)
    return outcome.status == "done"


def _is_done(folder: Path, name: str) -> bool:
    return store.load(folder)["parts"].get(name, {}).get("status") == "done"


def _merge(source: Path, out: Path) -> int:
    """Merge every device's results below a folder into `out`."""
    files = sorted(source.rglob(store.FILE))
    if not files:
        print(f"no {store.FILE} below {source}")
        return 1
    for path in files:
        folder = out / ("gpu" if out == RESULTS else ".") / path.parent.name
        report.write(folder, store.merge(folder, store.load(path.parent)))
        _finish(folder, out)
    return 0


def _finish(folder: Path, out: Path) -> None:
    """Pictures, and what is there at all."""
    record = store.load(folder)
    try:
        from benchmarks.gpu_parts.plots import draw
    except ImportError as error:
        print(f"no pictures: {error}")
    else:
        draw(record, folder)
    if out == RESULTS:
        report.update_readme(RESULTS)
    print(f"written: {folder / report.FILE}")


if __name__ == "__main__":
    sys.exit(main())
