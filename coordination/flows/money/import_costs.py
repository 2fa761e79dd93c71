"""Imports cost records into the ledger in batches. Skips ids that exist.

A whole file is read and checked, against itself and the ledger, before anything is stored, so that a file with an error
is not imported in part. Memory does not grow with the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from typing import BinaryIO

from sqlalchemy import Connection

from coordination.base import gc_tuning, json_values
from coordination.base.errors import FormatError
from coordination.domain.money.costs import CostRecord
from coordination.domain.projects.projects import Project
from coordination.formats.costs_jsonl import MOST_BYTES, numbered_costs
from coordination.services.money import ledger
from coordination.store.disk_queue import DiskQueue, NumberedRecord
from coordination.store.disk_set import DiskSet
from coordination.store.engine import Store
from coordination.store.queries.money import costs
from coordination.store.queries.money.costs import BilledAmounts
from coordination.store.queries.projects import projects

_BATCH = 5000
_WRITERS = 2  # while the database stores one batch, the next is prepared
_billed: Callable[[CostRecord], BilledAmounts] = attrgetter(
    "model", "input_tokens", "output_tokens", "cached_input_tokens", "total_tokens", "cost_usd"
)
_HINT = "Nothing was imported. Remove the wrong line of the two, or give it an id of its own"


@dataclass(slots=True)
class ImportResult:
    """The numbers of records that were read, and that were new; ``project`` got those without a project.

    ``torn``: the number of an unfinished last line, which was skipped. ``free``: new calls that used tokens and were
    reported as free, by (model, project), with the latest moment.
    """

    project: str = ""
    read: int = 0
    new: int = 0
    unpriced: int = 0
    torn: int | None = None
    free: dict[tuple[str, str | None], tuple[int, datetime]] = field(default_factory=dict)

    def add(self, new: Iterable[CostRecord]) -> None:
        """Count new records."""
        for record in new:
            self.new += 1
            if record.corrects is not None:
                continue
            if record.cost_usd is None:
                self.unpriced += 1
            elif record.cost_usd == 0 and record.input_tokens + record.output_tokens > 0:
                key = record.model, record.project_id
                calls, at = self.free.get(key, (0, record.occurred_at))
                self.free[key] = calls + 1, max(at, record.occurred_at)


def check_file(store: Store, workspace_id: str, file: BinaryIO, spool: DiskQueue, *, source: str) -> ImportResult:
    """Read a whole file into *spool* without changing anything else.

    Raises FormatError, with the line, when it cannot be imported as a whole.
    """
    result = ImportResult()

    def torn(number: int) -> None:
        result.torn = number

    def read_billed(ids: Sequence[str]) -> dict[str, BilledAmounts]:
        with store.read() as tx:
            return costs.read_billed(tx, workspace_id, ids)

    def read_total(id_: str) -> BilledAmounts | None:
        with store.read() as tx:
            return costs.read_total_billed(tx, workspace_id, id_)

    records = numbered_costs(json_values.read_lines(file, most=MOST_BYTES), source=source, torn=torn)
    with ThreadPoolExecutor(1) as reader, DiskSet() as seen:
        for batch in _batches(records):
            stored = reader.submit(read_billed, [one.id for _, one in batch])
            result.read += len(batch)
            if clash := seen.note([(one.id, hash(_billed(one)), line) for line, one in batch]):
                line, earlier = clash
                amounts = _describe_clash(spool, batch, line, earlier)
                raise FormatError(
                    f"its id is in line {earlier} too, with another amount{amounts}",
                    source=source,
                    line=line,
                    hint=_HINT,
                )
            spool.put(batch)
            _check_equal(stored.result(), batch, source, read_total)
    return result


def import_file(
    store: Store, workspace_id: str, spool: DiskQueue, *, owner: Project, checked: ImportResult, source: str
) -> ImportResult:
    """Store the records that ``check_file`` has read; those without a known project get *owner*.

    Raises FormatError when a different record of the same id was stored meanwhile. Batches before it stay stored.
    """
    result = ImportResult(owner.name, read=checked.read, torn=checked.torn)

    def write(batch: Sequence[NumberedRecord]) -> list[CostRecord]:
        with gc_tuning.collection_paused():
            return store.transact(lambda tx: _store(tx, workspace_id, batch, project_id=owner.id, source=source))

    writing: deque[Future[list[CostRecord]]] = deque()
    pool = ThreadPoolExecutor(_WRITERS if store.dialect == "postgresql" else 1)
    with pool:
        try:
            for batch in spool.batches(owner.id):
                # A correction gets the project and run of its record, which must be stored before.
                ahead = 0 if any(record.corrects is not None for _, record in batch) else _WRITERS - 1
                while len(writing) > ahead:
                    result.add(writing.popleft().result())
                writing.append(pool.submit(write, batch))
            while writing:
                result.add(writing.popleft().result())
        finally:
            for unfinished in writing:  # after an error
                unfinished.cancel()
    return result


def import_costs(
    tx: Connection, workspace_id: str, records: Sequence[CostRecord], *, project_id: str
) -> list[CostRecord]:
    """Append records to the ledger, and return the new ones. Those without a known project get *project_id*."""
    ids = {record.project_id for record in records if record.project_id is not None}
    known = {each for each in ids if each == project_id or projects.get(tx, workspace_id, each) is not None}
    placed = [record if record.project_id in known else replace(record, project_id=project_id) for record in records]
    return ledger.append_records(tx, workspace_id, _place_corrections(tx, workspace_id, placed))


def _batches(records: Iterator[NumberedRecord]) -> Iterator[list[NumberedRecord]]:
    while True:
        with gc_tuning.collection_paused():
            batch = list(islice(records, _BATCH))
        if not batch:
            return
        yield batch


def _store(
    tx: Connection, workspace_id: str, batch: Sequence[NumberedRecord], *, project_id: str, source: str
) -> list[CostRecord]:
    new = import_costs(tx, workspace_id, [one for _, one in batch], project_id=project_id)
    if len(new) < len(batch):
        ids = {one.id for one in new}
        existing = [one.id for _, one in batch if one.id not in ids]
        read_total = partial(costs.read_total_billed, tx, workspace_id)
        _check_equal(costs.read_billed(tx, workspace_id, existing), batch, source, read_total)
    return new


def _describe_clash(spool: DiskQueue, batch: Sequence[NumberedRecord], line: int, earlier: int) -> str:
    """Return both amounts of an id that is in two lines. The earlier one is in the batch or in *spool*."""
    spooled = (one for each in spool.batches("") for one in each)
    first = next((one for number, one in chain(batch, spooled) if number == earlier), None)
    second = next((one for number, one in batch if number == line), None)
    if first is None or second is None:
        return ""
    return f" ({_difference(second.cost_usd, first.cost_usd, here=f'in line {line}', there=f'in line {earlier}')})"


def _difference(new: Decimal | None, old: Decimal | None, *, here: str, there: str) -> str:
    if new == old:
        return "other tokens or another model"
    shown_old, shown_new = ("no price" if usd is None else f"${usd:f}" for usd in (old, new))
    return f"{shown_new} {here}, {shown_old} {there}"


def _check_equal(
    stored: dict[str, BilledAmounts],
    batch: Iterable[NumberedRecord],
    source: str,
    read_total: Callable[[str], BilledAmounts | None],
) -> None:
    """Raise FormatError at the first record that the ledger has with another amount.

    *read_total*: includes the repeated reports of a call.
    """
    if not stored:
        return
    for line, record in batch:
        old, new = stored.get(record.id), _billed(record)
        if old is not None and old != new and (old := read_total(record.id) or old) != new:
            amounts = _difference(new[-1], old[-1], here="here", there="there")
            raise FormatError(
                f"its id is in the ledger already, with another amount ({amounts})",
                source=source,
                line=line,
                hint=_HINT,
            )


def _place_corrections(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """Give corrections the project, run, session and task of their record, which is in the ledger or before them here.

    A correction without its record is only an amount: it settles nothing.
    """
    corrected = {record.corrects for record in records if record.corrects is not None}
    if not corrected:
        return list(records)
    stored = costs.read_records(tx, workspace_id, sorted(corrected))
    known = {record.id: record for record in records if record.corrects is None} | stored
    placed = []
    for record in records:
        of = known.get(record.corrects or "")
        if record.corrects is None:
            placed.append(record)
        elif of is None:
            placed.append(replace(record, settles=False))
        else:
            place = {name: getattr(of, name) for name in ("project_id", "run_id", "session_id", "task_id")}
            placed.append(replace(record, **place, settles=record.settles and of.cost_usd is None))
    return placed
