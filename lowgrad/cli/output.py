"""Tables: drawn by rich on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence


def is_terminal() -> bool:
    """Whether somebody looks at standard output."""
    return sys.stdout.isatty()


def show_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    left: int = 1,
    title: str = "",
    less: Sequence[str] = (),
) -> None:
    """Print a table. The first `left` columns are words, the others numbers: aligned right.

    less: headers of columns that a narrow terminal does without, the first one first.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if not is_terminal():
        print(plain_table(headers, cells, left=left, title=title))
        return
    width = shutil.get_terminal_size().columns
    gone: list[str] = []
    for name in less:
        if _width(headers, cells) <= width:
            break
        at = list(headers).index(name)
        headers = [*headers[:at], *headers[at + 1 :]]
        cells = [[*row[:at], *row[at + 1 :]] for row in cells]
        left -= at < left
        gone.append(name)
    if _width(headers, cells) > width or not _drawn(headers, cells, left, title):
        print(plain_table(headers, cells, left=left, title=title))
    if gone:
        print(f"no room for: {', '.join(gone)} (a wider terminal, or a pipe, has them)")


def _width(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The columns that a table takes on a terminal."""
    return sum(max(map(len, column)) + 2 for column in zip(headers, *rows, strict=True))


def plain_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, title: str = ""
) -> str:
    """The table as text."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [title] if title else []
    for row in (headers, *rows):
        cells = (
            f"{cell:<{width}}" if number < left else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _drawn(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int, title: str) -> bool:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
    return True
