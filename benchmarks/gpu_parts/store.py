"""Results of slices, merged: one JSON file for each device, each part with its own environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.machine import Machine
from benchmarks.gpu_parts.parts import PARTS
from benchmarks.gpu_parts.runner import Outcome, read

FILE = "results.json"
Record = dict[str, Any]


def load(folder: Path) -> Record:
    """What is known of one device; nothing yet if there is no file."""
    path = folder / FILE
    if not path.exists():
        return {"device": "", "parts": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def add(folder: Path, machine: Machine, outcome: Outcome) -> Record:
    """Merge one part's outcome into the device's file. The new record."""
    record = load(folder)
    record["device"] = machine.name
    new = {
        "status": outcome.status,
        "seconds": round(outcome.seconds, 1),
        "error": outcome.error,
        "environment": machine.environment,
        "rows": _dated(outcome),
    }
    record["parts"][outcome.name] = _over(record["parts"].get(outcome.name), new)
    return _write(folder, record)


def merge(folder: Path, other: Record) -> Record:
    """Merge another run's record into the device's file: its rows are the newer ones."""
    record = load(folder)
    record["device"] = other["device"] or record["device"]
    for name, part in other["parts"].items():
        record["parts"][name] = _over(record["parts"].get(name), part)
    return _write(folder, record)


def recover(folder: Path, machine: Machine, scratch: Path) -> None:
    """Take over the rows that a run left behind which was itself ended in the middle of a part."""
    for path in sorted(scratch.glob("*.jsonl")):
        if path.stem in PARTS and (rows := read(path)):
            error = "the run itself was ended"
            add(folder, machine, Outcome(path.stem, "timeout", 0.0, error, rows))
        path.unlink()


def _over(old: Record | None, new: Record) -> Record:
    """A newer result of a part over an older one.

    A part that is done replaces all. One that died keeps the old rows that it did not get to; they
    carry their own dates and environments.
    """
    if old is None or new["status"] == "done":
        return new
    kept = {row["name"]: row for row in old["rows"]}
    for row in kept.values():
        row.setdefault("environment", old["environment"])
    measured = {row["name"] for row in new["rows"] if not row["error"]}
    rows = [row for name, row in kept.items() if name not in measured and not row["error"]]
    known = {row["name"] for row in rows}
    fresh = [row for row in new["rows"] if row["name"] not in known]
    return {**new, "rows": _in_order([*old["rows"], *new["rows"]], [*rows, *fresh])}


def _in_order(like: list[Record], rows: list[Record]) -> list[Record]:
    """Rows in the order in which their names first came."""
    places: dict[str, int] = {}
    for row in like:
        places.setdefault(row["name"], len(places))
    return sorted(rows, key=lambda row: places[row["name"]])


def _dated(outcome: Outcome) -> list[Record]:
    return [{**row, "date": outcome.date} for row in outcome.rows]


def _write(folder: Path, record: Record) -> Record:
    """In the table's order, moved into place whole."""
    order = {name: place for place, name in enumerate(PARTS)}
    parts = record["parts"]
    record["parts"] = {n: parts[n] for n in sorted(parts, key=lambda n: order.get(n, len(order)))}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{FILE}.{os.getpid()}"
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / FILE)
    return record
