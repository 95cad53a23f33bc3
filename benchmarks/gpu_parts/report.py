"""Results as Markdown: a table for each part, and what is there at all. Written, never typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from benchmarks.gpu_parts import store
from benchmarks.gpu_parts.parts import PARTS
from benchmarks.gpu_parts.row import OURS, Row, Side, from_json

MIB = 1 << 20
FILE = "results.md"
BEGIN, END = "<!-- gpu: written by benchmarks.gpu -->", "<!-- gpu: end -->"
RIVALS = {"eager": "PyTorch eager", "compile": "torch.compile", "liger": "Liger"}
# What the figures depend on most; the file has the rest.
SHOWN = ("driver", "torch", "triton", "liger-kernel", "lowgrad", "commit", "date")


def report(record: store.Record) -> str:
    """The whole text for one device."""
    lines = [f"# {record['device']}", "", *_summary(record), ""]
    for name, part in record["parts"].items():
        lines += [f"## {PARTS[name].title if name in PARTS else name}", ""]
        lines += [f"`{name}`, {_environment(part['environment'])}", ""]
        if part["status"] != "done":
            lines += [f"**{part['status']}**: {_cell(part['error'])}", ""]
        rows = [from_json(row) for row in part["rows"]]
        lines += _timed([r for r in rows if r.sides])
        lines += _figures([r for r in rows if not r.sides])
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path, record: store.Record) -> Path:
    """The text beside the results."""
    path = folder / FILE
    path.write_text(report(record), encoding="utf-8")
    return path


def _summary(record: store.Record) -> list[str]:
    rows = [from_json(row) for part in record["parts"].values() for row in part["rows"]]
    counts = {v: sum(r.verdict == v for r in rows) for v in ("met", "MISSED", "failed")}
    missing = [name for name in PARTS if name not in record["parts"]]
    cut = [n for n, part in record["parts"].items() if part["status"] != "done"]
    lines = [
        f"Rows with targets: {counts['met']} met, {counts['MISSED']} missed. "
        f"Rows that failed: {counts['failed']}.",
        f"Parts not run: {', '.join(missing) or 'none'}.",
        f"Parts that did not end: {', '.join(cut) or 'none'}.",
    ]
    return ["  \n".join(lines)]


def _environment(environment: dict[str, str]) -> str:
    return ", ".join(f"{name} {environment.get(name, '?')}" for name in SHOWN)


def _timed(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    names = [n for n in RIVALS if any(n in r.sides for r in rows)]
    others = [n for n in dict.fromkeys(n for r in rows for n in r.sides) if n not in RIVALS]
    titles = ["", *others, *(RIVALS[n] for n in names), "fastest rival / ours", "of ceiling"]
    lines = _header([*titles, "figures and targets", ""])
    for row in rows:
        cells = [row.name, *(_side(row.sides.get(n)) for n in [*others, *names])]
        cells += [_ratio(row), _fraction(row), _told(row), row.verdict]
        lines.append(_line(cells))
    return [*lines, "", *_notes(rows)]


def _figures(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    lines = _header(["", "figures and targets", ""])
    for row in rows:
        told = f"{row.error}" if row.error else _told(row)
        note = f"; {row.note}" if row.note else ""
        skipped = "skipped" if row.note.startswith("skipped") else ""
        lines.append(_line([row.name, f"{told}{note}".removeprefix("; "), row.verdict or skipped]))
    return [*lines, ""]


def _header(titles: list[str]) -> list[str]:
    return [_line(titles), "|" + "---|" * len(titles)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _side(side: Side | None) -> str:
    if side is None or side.ms is None:
        return "-"
    taken = "" if side.bytes is None else f", {side.bytes / MIB:,.0f} MiB"
    return f"{_time(side.ms)}{taken}"


def _time(ms: float) -> str:
    return f"{ms * 1e3:.3g} us" if ms < 0.1 else f"{ms:.3g} ms" if ms < 1e3 else f"{ms:,.0f} ms"


def _ratio(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.2f}x ({row.best_rival})"


def _fraction(row: Row) -> str:
    share, rate = row.fraction(), row.rate()
    if share is None or rate is None:
        return "-"
    return f"{share:.1%} ({rate / 1e12:.3g} T{row.unit}/s)"


def _told(row: Row) -> str:
    return "; ".join(_figure(f) for f in row.figures)


def _figure(f: Figure) -> str:
    return " ".join(f"{f.name} {f.value:.4g} {f.unit} {f.verdict}".split())


def _notes(rows: list[Row]) -> list[str]:
    """What the sides have to say: modes, failures."""
    notes = []
    for row in rows:
        said = [f"{n}: {s.note}" for n, s in row.sides.items() if s.note]
        said += [row.note] if row.note else []
        if said:
            notes.append(f"- {_cell(row.name)}: {_cell('; '.join(said))}")
    return [*notes, ""] if notes else []


# What is there at all: the section of benchmarks/results/README.md --------------------------------


def overview(results: Path) -> str:
    """The text between the marks: the devices that were measured, and what remains of each."""
    found = sorted(results.glob(f"gpu/*/{store.FILE}"))
    lines = [BEGIN, ""]
    if not found:
        lines += [
            "**No GPU figures exist yet.** `make gpu` was never run on a GPU. All parts remain:",
            "",
            *_listed(list(PARTS)),
        ]
    for path in found:
        record = store.load(path.parent)
        where = f"gpu/{path.parent.name}/{FILE}"
        lines += [f"[{record['device']}]({where})", "", *_summary(record), ""]
        missing = [n for n in PARTS if n not in record["parts"]]
        if missing:
            lines += ["Remaining:", "", *_listed(missing), ""]
    return "\n".join(lines).rstrip() + f"\n\n{END}\n"


def _listed(names: list[str]) -> list[str]:
    return [f"- `{n}`: {PARTS[n].title} (about {PARTS[n].minutes:g} min)" for n in names]


def update_readme(results: Path) -> None:
    """Put the overview where its marks are in benchmarks/results/README.md."""
    path = results / "README.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + overview(results).rstrip("\n") + after, encoding="utf-8")


def rows_of(record: store.Record, part: str) -> Iterator[Row]:
    """The rows of one part that were measured."""
    found: dict[str, Any] | None = record["parts"].get(part)
    for row in (found or {"rows": []})["rows"]:
        made = from_json(row)
        if not made.error:
            yield made


__all__ = ["OURS", "overview", "report", "rows_of", "update_readme", "write"]
