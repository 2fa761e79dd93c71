"""Prints tables and fields: coloured on a terminal, unbroken plain lines in a pipe, without control characters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from coordination.cli import terminal

_UNBROKEN = 400


def show(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "(none)", optional: Collection[str] = ()
) -> None:
    """Print one table; *empty* where it has no row. *optional*: columns that are left out when all cells are empty."""
    from rich.table import Table
    from rich.text import Text

    console = terminal.console(highlight=False)
    if not console.is_terminal:
        console = terminal.console(highlight=False, width=_UNBROKEN)
    rows = list(rows)
    columns = [at for at, name in enumerate(headers) if name not in optional or any(shown(row[at]) for row in rows)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for header in (headers[at] for at in columns):
        # Ids are copied, so each stays whole, on one line.
        table.add_column(header, no_wrap=True, overflow="fold" if header in ("id", "run") else "ellipsis")
    for row in rows:
        table.add_row(*(Text(shown(row[at])) for at in columns))
    if not table.row_count:
        print(empty)
        return
    with console.capture() as capture:
        console.print(table)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print names with their values, one a line; empty values are left out."""
    shown_pairs = [(name, shown(value)) for name, value in pairs if value not in (None, "", {}, [])]
    width = max((len(name) for name, _ in shown_pairs), default=0)
    for name, value in shown_pairs:
        print(f"{name:<{width}}  {value}")


def shown(value: Any) -> str:
    """Return a value as one line of printable text."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, dict):
        return ", ".join(f"{name}={shown(item)}" for name, item in value.items())
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
