"""Import cost records into the ledger, a batch at a time: what is there already by its id is left alone.

A file is first read and checked from end to end, against itself and against the ledger, and only then stored. So a bad
line, or an id that stands for another amount, leaves nothing of the file behind. Memory does not grow with it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import chain, islice
from typing import Any, BinaryIO

from sqlalchemy import Connection

from coordination.base import gc_tuning
from coordination.base.errors import FormatError
from coordination.domain.money.costs import CostRecord
from coordination.domain.projects.projects import Project
from coordination.formats import jsonl
from coordination.formats.costs_jsonl import MOST_BYTES, numbered_costs
from coordination.services.money import ledger
from coordination.services.projects import projects as project_service
from coordination.store.disk_queue import DiskQueue, NumberedRecord
from coordination.store.disk_set import DiskSet
from coordination.store.engine import Store
from coordination.store.queries.money import costs
from coordination.store.queries.money.costs import Billed
from coordination.store.queries.projects import projects

_BATCH = 5000
_WRITERS = 2  # while the database stores one batch, the next is made ready for it
_HINT = "Nothing is imported of it. Which of the two is right? Remove the other line, or give it an id of its own"


@dataclass(slots=True)
class ImportResult:
    """How many records were read, and how many were new; ``project`` has those that name none.

    ``torn``: the number of a last line that was not finished, and left out. ``free``: new calls that used tokens and
    are said to have cost nothing, by (model, project), with the latest moment.
    """

    project: str = ""
    read: int = 0
    new: int = 0
    unpriced: int = 0
    torn: int | None = None
    free: dict[tuple[str, str | None], tuple[int, datetime]] = field(default_factory=dict)

    def note(self, new: Iterable[CostRecord]) -> None:
        """These were new."""
        for one in new:
            self.new += 1
            if one.corrects is not None:
                continue
            if one.cost_usd is None:
                self.unpriced += 1
            elif one.cost_usd == 0 and one.input_tokens + one.output_tokens > 0:
                key = one.model, one.project_id
                calls, at = self.free.get(key, (0, one.occurred_at))
                self.free[key] = calls + 1, max(at, one.occurred_at)


def cost_project(tx: Connection, workspace_id: str, *, identity: str, name: str, path: str | None = None) -> Project:
    """The project that records belong to which name none of this store's; made if it is new."""
    return project_service.resolve(tx, workspace_id, identity=identity, name=name, path=path)


def check_file(store: Store, workspace_id: str, file: BinaryIO, spool: DiskQueue, *, source: str) -> ImportResult:
    """Read a file to its end into *spool*, and change nothing else.

    FormatError, with its line, where it cannot be imported as a whole.
    """
    found = ImportResult()

    def torn(number: int) -> None:
        found.torn = number

    def billed(names: Sequence[str]) -> dict[str, Billed]:
        with store.read() as tx:
            return costs.billed(tx, workspace_id, names)

    def in_all(name: str) -> Billed | None:
        with store.read() as tx:
            return costs.billed_in_all(tx, workspace_id, name)

    records = numbered_costs(jsonl.read_lines(file, most=MOST_BYTES), source=source, torn=torn)
    with ThreadPoolExecutor(1) as asking, DiskSet() as seen:
        for batch in _batches(records):
            there = asking.submit(billed, [one.id for _, one in batch])
            found.read += len(batch)
            if clash := seen.note([(one.id, hash(_billed(one)), line) for line, one in batch]):
                line, earlier = clash
                what = _both(spool, batch, line, earlier)
                raise FormatError(
                    f"its id stands in line {earlier} too, with another amount{what}",
                    source=source,
                    line=line,
                    hint=_HINT,
                )
            spool.put(batch)
            _same_as_there(there.result(), batch, source, in_all)
    return found


def import_file(
    store: Store, workspace_id: str, spool: DiskQueue, *, owner: Project, checked: ImportResult, source: str
) -> ImportResult:
    """Store what ``check_file`` has read; records that name no project, or one unknown here, in *owner*.

    FormatError where the ledger has got another record of the same id meanwhile: what was stored by then stays.
    """
    done = ImportResult(owner.name, read=checked.read, torn=checked.torn)

    def write(batch: Sequence[NumberedRecord]) -> list[CostRecord]:
        with gc_tuning.collection_paused():
            return store.transact(lambda tx: _stored(tx, workspace_id, batch, project_id=owner.id, source=source))

    writing: deque[Future[list[CostRecord]]] = deque()
    pool = ThreadPoolExecutor(_WRITERS if store.dialect == "postgresql" else 1)
    with pool, _none_after_a_failure(writing):
        for batch in spool.batches(owner.id):
            # A correction stands where the corrected record stands, which is there by then.
            ahead = 0 if any(one.corrects is not None for _, one in batch) else _WRITERS - 1
            while len(writing) > ahead:
                done.note(writing.popleft().result())
            writing.append(pool.submit(write, batch))
        while writing:
            done.note(writing.popleft().result())
    return done


def import_costs(
    tx: Connection, workspace_id: str, records: Sequence[CostRecord], *, project_id: str
) -> list[CostRecord]:
    """Append *records* to the ledger; those that were new. Those of projects unknown here go to *project_id*."""
    named = {record.project_id for record in records if record.project_id is not None}
    known = {found for found in named if found == project_id or projects.get(tx, workspace_id, found) is not None}
    placed = [record if record.project_id in known else replace(record, project_id=project_id) for record in records]
    return ledger.record(tx, workspace_id, _beside_what_they_correct(tx, workspace_id, placed))


def _batches(records: Iterator[NumberedRecord]) -> Iterator[list[NumberedRecord]]:
    while True:
        with gc_tuning.collection_paused():
            batch = list(islice(records, _BATCH))
        if not batch:
            return
        yield batch


@contextlib.contextmanager
def _none_after_a_failure(writing: Iterable[Future[Any]]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for one in writing:
            one.cancel()
        raise


def _stored(
    tx: Connection, workspace_id: str, batch: Sequence[NumberedRecord], *, project_id: str, source: str
) -> list[CostRecord]:
    new = import_costs(tx, workspace_id, [one for _, one in batch], project_id=project_id)
    if len(new) < len(batch):
        ids = {one.id for one in new}
        known = [one.id for _, one in batch if one.id not in ids]
        in_all = partial(costs.billed_in_all, tx, workspace_id)
        _same_as_there(costs.billed(tx, workspace_id, known), batch, source, in_all)
    return new


def _both(spool: DiskQueue, batch: Sequence[NumberedRecord], line: int, earlier: int) -> str:
    """Both amounts of an id that stands in two lines. The earlier line is in the batch, or was put away."""
    kept = (one for each in spool.batches("") for one in each)
    first = next((one for number, one in chain(batch, kept) if number == earlier), None)
    second = next((one for number, one in batch if number == line), None)
    if first is None or second is None:
        return ""
    return f" ({_difference(second.cost_usd, first.cost_usd, here=f'in line {line}', there=f'in line {earlier}')})"


def _difference(told: Decimal | None, was: Decimal | None, *, here: str, there: str) -> str:
    if told == was:
        return "other tokens or another model"
    before, now = ("no price" if usd is None else f"${usd:f}" for usd in (was, told))
    return f"{now} {here}, {before} {there}"


def _same_as_there(
    there: dict[str, Billed], batch: Iterable[NumberedRecord], source: str, in_all: Callable[[str], Billed | None]
) -> None:
    """Nothing, or FormatError at the first record that the ledger knows with another amount, *in_all*."""
    if not there:
        return
    for line, one in batch:
        known = there.get(one.id)
        if known is not None and known != _billed(one) and (known := in_all(one.id) or known) != _billed(one):
            what = _difference(_billed(one)[-1], known[-1], here="here", there="there")
            raise FormatError(
                f"its id is in the ledger already, with another amount ({what})", source=source, line=line, hint=_HINT
            )


def _billed(record: CostRecord) -> Billed:
    return (
        record.model,
        record.input_tokens,
        record.output_tokens,
        record.cached_input_tokens,
        record.total_tokens,
        record.cost_usd,
    )


def _beside_what_they_correct(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """The records, with corrections where the corrected record stands, which is in the ledger or before them here.

    Without it a correction is only an amount: it settles nothing.
    """
    corrected = {record.corrects for record in records if record.corrects is not None}
    if not corrected:
        return list(records)
    stored = costs.named(tx, workspace_id, sorted(corrected))
    known = {record.id: record for record in records if record.corrects is None} | stored
    placed = []
    for record in records:
        if record.corrects is not None:
            of = known.get(record.corrects)
            if of is None:
                record = replace(record, settles=False)  # noqa: PLW2901 - the same record, in its place
            else:
                record = replace(  # noqa: PLW2901
                    record,
                    project_id=of.project_id,
                    run_id=of.run_id,
                    session_id=of.session_id,
                    task_id=of.task_id,
                    settles=record.settles and of.cost_usd is None,
                )
        placed.append(record)
    return placed
