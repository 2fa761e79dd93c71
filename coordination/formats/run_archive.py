"""Archives of deleted runs: JSON Lines, one row a line, between a first line that says what it is and a last one.

``{"record": "archive", "version": 1, "of": "run", …}``, then rows as ``{"record": "tasks", …columns…}``, at the end
``{"record": "end", "rows": 12}``: a file without that line is not whole. Pure: where files go is not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntFlag
from typing import Any

from coordination.base.errors import FormatError

VERSION = 1
RECORD = "record"
FIRST, LAST = "archive", "end"


def write_archive(of: str, about: Mapping[str, Any], rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[bytes]:
    """The lines of an archive, each with its line break; *rows*: (table, columns), in the order to store them again."""
    yield _line({RECORD: FIRST, "version": VERSION, "of": of, **about})
    number = 0
    for number, (table, columns) in enumerate(rows, start=1):  # noqa: B007 - how many there were
        yield _line({RECORD: table, **columns})
    yield _line({RECORD: LAST, "rows": number})


def read_archive(lines: Iterable[bytes], *, source: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows, each with its table as ``record``; FormatError for what is no whole archive of a version we know."""
    seen = -1
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            raise FormatError("this is not JSON", source=source, line=number) from None
        if not isinstance(row, dict) or (number == 1) != (row.get(RECORD) == FIRST):
            raise FormatError("this is no archive of ours", source=source, line=number)
        if number == 1 and row.get("version") != VERSION:
            raise FormatError(f"archives of version {row.get('version')} are not known", source=source, line=number)
        if row[RECORD] == LAST:
            if row.get("rows") != seen:
                raise FormatError(f"it should hold {row.get('rows')} rows and has {seen}", source=source, line=number)
            return
        seen += 1
        if number > 1:
            yield row
    raise FormatError("the archive is not whole: its last line is missing", source=source)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(row), ensure_ascii=False, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: object) -> Any:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case IntFlag():
            return int(value)
    raise TypeError(f"{type(value).__name__} has no place in an archive")
