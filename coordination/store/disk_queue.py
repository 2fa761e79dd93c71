"""A queue of parsed cost records in a temporary file, for more records than fit in memory."""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Self

from coordination.base.errors import Unavailable
from coordination.domain.money.costs import CostRecord

NumberedRecord = tuple[int, CostRecord]
"""A record and its line in the file."""

_FIELDS = tuple(field.name for field in fields(CostRecord))
_PROJECT, _COST, _MOMENT = (_FIELDS.index(name) for name in ("project_id", "cost_usd", "occurred_at"))
_values = attrgetter(*_FIELDS)


class DiskQueue:
    """A temporary file that is deleted when it is closed or its process ends.

    One process writes and reads it, so its format may depend on the Python version.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this

    def put(self, batch: Sequence[NumberedRecord]) -> None:
        """Append a batch. Raises Unavailable when there is no space."""
        rows = []
        for line, record in batch:
            row = [line, *_values(record)]
            if record.cost_usd is not None:
                row[1 + _COST] = str(record.cost_usd)
            row[1 + _MOMENT] = record.occurred_at.isoformat()
            rows.append(row)
        data = marshal.dumps(rows)
        try:
            self._file.write(len(data).to_bytes(8, "big") + data)
            self._file.flush()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Unavailable(
                f"the records cannot be buffered in {tempfile.gettempdir()}: {why}", hint="Set TMPDIR to another folder"
            ) from error

    def batches(self, project_id: str) -> Iterator[list[NumberedRecord]]:
        """Yield every batch in order. Records without a project get *project_id*."""
        self._file.seek(0)
        while size := self._file.read(8):
            batch = []
            for line, *row in marshal.loads(self._file.read(int.from_bytes(size, "big"))):  # noqa: S302 - written here
                if row[_COST] is not None:
                    row[_COST] = Decimal(row[_COST])
                if row[_PROJECT] is None:
                    row[_PROJECT] = project_id
                row[_MOMENT] = datetime.fromisoformat(row[_MOMENT])
                batch.append((line, CostRecord(*row)))
            yield batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()
