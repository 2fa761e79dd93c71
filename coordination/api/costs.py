"""Costs in the Python API: sums and forecast of the ledger, check and repair, import and export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from coordination.adapters import git_checkout, price_list
from coordination.api.names import find_project_id
from coordination.api.user_times import resolve_time
from coordination.base.clock import DEFAULT_ZONE
from coordination.base.errors import Refused, Unavailable
from coordination.base.wording import excerpt
from coordination.domain.money.date_ranges import DateRange, parse_date_range
from coordination.domain.money.pricing import Quote
from coordination.domain.projects.projects import Project
from coordination.flows.money.check_costs import LedgerCheck, set_timezone
from coordination.flows.money.check_costs import check_costs as check_costs
from coordination.flows.money.import_costs import ImportResult, check_file, import_file
from coordination.flows.money.reprice_costs import RepricingRequest, RepricingResult, reprice_costs
from coordination.formats.costs_jsonl import Shape, write_costs
from coordination.runtime import Runtime
from coordination.services.money import prices
from coordination.services.projects import projects as project_service
from coordination.store.disk_queue import DiskQueue
from coordination.store.queries.money import costs, rollups
from coordination.store.reports.forecast.spending_outlook import SpendingOutlook, outlook
from coordination.store.reports.money import spending as report
from coordination.store.reports.money.spending import DIMENSIONS, Spending, ZeroCost

CheckedSums = LedgerCheck

_FEW = 50_000  # calls that can be read one by one while a person waits


@dataclass(frozen=True, slots=True)
class Total:
    """The total of some calls. ``cost_usd``: of those with a known price; ``unpriced_calls``: how many have none."""

    cost_usd: Decimal
    calls: int
    unpriced_calls: int


class Costs:
    """The cost ledger: ``co.costs``. Without a project, methods are about the whole workspace.

    *since* and *until* are months (``"2027-01"``), days or moments, as texts or dates; *until* includes its month or
    day. Days are those of the workspace's time zone. ``"today"``, ``"yesterday"`` and ``"monday"`` are days of this
    machine's time zone, ``"7d"`` and ``"12h"`` are that long before now.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store, self._workspace_id = runtime.store, runtime.workspace_id

    def total(
        self, *, project: str | None = None, since: str | date | None = None, until: str | date | None = None
    ) -> Total:
        """Return the total of all calls."""
        span, project_id = self.span(since, until), find_project_id(self._runtime, project)
        return Total(*self._runtime.read(report.total, project_id=project_id, span=span))

    def summary(
        self,
        by: str = "project",
        *,
        project: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        top: int | None = None,
    ) -> list[Spending]:
        """Return totals by project, session, model, run, agent, account, day or month, the most expensive first.

        *top*: only this many. Without it, days and months are in chronological order.
        """
        if by not in DIMENSIONS:
            raise Refused(
                f"{excerpt(by)} is not a dimension of costs", hint=f"One of: {', '.join(DIMENSIONS)}", field="by"
            )
        if top is not None and top < 1:
            raise Refused("top is at least 1", field="top")
        span, project_id = self.span(since, until), find_project_id(self._runtime, project)
        return self._runtime.read(report.spending, by=by, project_id=project_id, span=span, top=top)

    def span(self, since: str | date | None = None, until: str | date | None = None) -> DateRange:
        """Return the span between two times. Raises Refused for an invalid time."""
        zone = self.timezone if isinstance(since or until, str) else DEFAULT_ZONE
        return parse_date_range(resolve_time(since, zone=zone), resolve_time(until, zone=zone, end=True))

    def forecast(self, *, project: str | None = None) -> SpendingOutlook:
        """Return what was spent today and this month, the pace, and the forecast for the month."""
        return self._runtime.read(outlook, project_id=find_project_id(self._runtime, project))

    def check(self, *, repair: bool = False) -> CheckedSums:
        """Compare every sum with its records; *repair*: correct wrong sums."""
        return check_costs(self._store, self._workspace_id, repair=repair)

    def import_file(self, path: str | Path, *, project: str | None = None) -> ImportResult:
        """Import a costs.jsonl: known records are skipped; a file with an error is refused as a whole.

        Records without a known project get *project*, or that of the current folder.
        """
        file = Path(path)
        try:
            with file.open("rb") as opened, DiskQueue() as spool:
                checked = check_file(self._store, self._workspace_id, opened, spool, source=str(file))
                owner = self._store.transact(lambda tx: self._owner(tx, project))
                return import_file(
                    self._store, self._workspace_id, spool, owner=owner, checked=checked, source=str(file)
                )
        except OSError as error:
            raise Refused(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from error

    def reprice(
        self,
        *,
        project: str | None = None,
        since: str | date | None = None,
        zero: bool = False,
        computed: bool = False,
        dry_run: bool = False,
    ) -> RepricingResult:
        """Add corrections for calls whose price was unknown and is known now. Safe to repeat.

        *zero*: include calls that used tokens and were reported as free; *computed*: include calls whose cost was
        computed, by prices that may have changed; *dry_run*: only return what would be corrected.
        """
        moment, _ = self.span(since).moments(self.timezone)
        request = RepricingRequest(find_project_id(self._runtime, project), moment, zero=zero, computed=computed)
        quote, actor = price_list.quote, self._runtime.actor
        return reprice_costs(self._store, self._workspace_id, request, price_list=quote, actor=actor, dry_run=dry_run)

    def export(
        self, shape: Shape = "nested", *, project: str | None = None, run_id: str | None = None
    ) -> Iterator[bytes]:
        """Yield the ledger as lines of a costs.jsonl, the oldest record first."""
        project_id = find_project_id(self._runtime, project)
        with self._store.read() as tx:
            yield from write_costs(costs.each(tx, self._workspace_id, project_id=project_id, run_id=run_id), shape)

    @property
    def timezone(self) -> str:
        """Return the time zone of the workspace's days and months."""
        return self._runtime.read(rollups.read_zone)

    def set_timezone(self, name: str) -> CheckedSums:
        """Set the time zone of days and months, such as ``Europe/Berlin``, and recompute every sum."""
        return set_timezone(self._store, self._workspace_id, name)

    def free_but_priced(self, *, project: str | None = None, asked: DateRange | None = None) -> dict[str, int]:
        """Return the number of calls that are reported as free although their model has a price, by model.

        In a very large ledger: only those of days or months in which all calls of the model were free.
        """
        project_id, when = find_project_id(self._runtime, project), asked or DateRange()
        with self._store.read() as tx:
            _, calls, _ = report.total(tx, self._workspace_id, project_id=project_id, span=when)
            use_totals = calls > _FEW and when.of_days and rollups.is_complete(tx, self._workspace_id)
            read = report.zero_cost_periods if use_totals else report.zero_cost
            return self.with_a_price(read(tx, self._workspace_id, project_id=project_id, span=when))

    def with_a_price(self, free_calls: list[ZeroCost]) -> dict[str, int]:
        """Return how many of these calls are of models that have a price, by model."""
        free: dict[str, int] = {}
        if not free_calls:
            return free
        book = self._runtime.read(prices.open_book, price_list.quote)
        for group in free_calls:
            try:
                quote = book.quote(group.model, group.project_id, group.at)
            except Unavailable:
                return free  # only a remark: totals do not depend on it
            if isinstance(quote, Quote) and not quote.price.is_free():
                free[group.model] = free.get(group.model, 0) + group.calls
        return free

    def _owner(self, tx: Connection, name: str | None) -> Project:
        if name is not None:
            return project_service.find(tx, self._workspace_id, name)
        here = git_checkout.checkout_of()
        return project_service.resolve(
            tx, self._workspace_id, identity=here.identity, name=here.name, path=str(here.root)
        )
