"""Archives of deleted runs in JSON Lines.

The first line is ``{"record": "archive", "version": 1, "of": "run", …}``. Rows follow as ``{"record": "tasks",
…columns…}``. The last line is ``{"record": "end", "rows": 12}``; a file without it is incomplete.
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
    """Yield the lines of an archive, with line breaks. *rows*: (table, columns), in the order for restoring them."""
    yield _line({RECORD: FIRST, "version": VERSION, "of": of, **about})
    number = 0
    for number, (table, columns) in enumerate(rows, start=1):  # noqa: B007 - the number of rows
        yield _line({RECORD: table, **columns})
    yield _line({RECORD: LAST, "rows": number})


def read_archive(lines: Iterable[bytes], *, source: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows, with their table as ``record``. Raises FormatError for an incomplete or unknown archive."""
    count = -1
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            raise FormatError("this is not JSON", source=source, line=number) from None
        if not isinstance(row, dict) or (number == 1) != (row.get(RECORD) == FIRST):
            raise FormatError("this is not an archive of a run", source=source, line=number)
        if number == 1 and row.get("version") != VERSION:
            raise FormatError(f"version {row.get('version')} of archives is unknown", source=source, line=number)
        if row[RECORD] == LAST:
            if row.get("rows") != count:
                raise FormatError(f"it should have {row.get('rows')} rows and has {count}", source=source, line=number)
            return
        count += 1
        if number > 1:
            yield row
    raise FormatError("the archive is incomplete: its last line is missing", source=source)


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
    raise TypeError(f"{type(value).__name__} cannot be archived")
