"""The ledger in the Python API: what was spent, how fast, on what; the proof of its sums; import and export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from coordination.adapters import git_checkout, price_list
from coordination.base import calendars
from coordination.base.errors import Refused, Unavailable
from coordination.base.wording import excerpt
from coordination.domain.money.date_ranges import DateRange, span
from coordination.domain.money.pricing import Quote
from coordination.domain.projects.projects import Project
from coordination.flows.money.check_costs import LedgerCheck, check_costs, set_timezone
from coordination.flows.money.import_costs import ImportResult, check_file, cost_project, import_file
from coordination.flows.money.reprice_costs import RepricingRequest, RepricingResult, reprice_costs
from coordination.formats.costs_jsonl import Shape, write_costs
from coordination.prices import Prices
from coordination.runtime import Runtime
from coordination.services.money import prices
from coordination.services.projects import projects as project_service
from coordination.store.disk_queue import DiskQueue
from coordination.store.queries.money import costs, rollups
from coordination.store.reports.forecast.spending_outlook import SpendingOutlook, outlook
from coordination.store.reports.money import spending as report
from coordination.store.reports.money.spending import DIMENSIONS, Spending, ZeroCost
from coordination.user_times import resolved

_FEW = 50_000  # calls, of which each can be looked at while somebody waits


@dataclass(frozen=True, slots=True)
class Total:
    """What some calls come to. ``cost_usd`` is of those with a known price, ``unpriced_calls`` counts the others."""

    cost_usd: Decimal
    calls: int
    unpriced_calls: int


class Accounting:
    """The part of a connection that knows the ledger."""

    runtime: Runtime

    @property
    def costs(self) -> Costs:
        """What was spent, how fast, and on what."""
        return Costs(self.runtime)

    @property
    def prices(self) -> Prices:
        """What calls of models cost."""
        return Prices(self.runtime)


class Costs:
    """The ledger: ``co.costs``. Projects are named as people name them; without one, it is all of the workspace.

    *since* and *until* are months (``"2027-01"``), days or moments, as texts or dates; *until* includes its month or
    day. Days are those of the workspace's time zone. ``"today"``, ``"yesterday"`` and ``"monday"`` are days of this
    machine's, ``"7d"`` and ``"12h"`` are so long before now.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store, self._workspace_id = runtime.store, runtime.workspace_id

    def total(
        self, *, project: str | None = None, since: str | date | None = None, until: str | date | None = None
    ) -> Total:
        """What all calls came to."""
        asked = self.span(since, until)
        project_id = self._project(project)
        with self._store.read() as tx:
            return Total(*report.total(tx, self._workspace_id, project_id=project_id, span=asked))

    def summary(
        self,
        by: str = "project",
        *,
        project: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        top: int | None = None,
    ) -> list[Spending]:
        """The same by project, session, model, run, agent, account, day or month, the dearest first.

        *top*: only so many. Days and months stand in their order, unless *top* asks for the dearest.
        """
        if by not in DIMENSIONS:
            raise Refused(
                f"{excerpt(by)} is nothing that costs are of", hint=f"One of: {', '.join(DIMENSIONS)}", field="by"
            )
        if top is not None and top < 1:
            raise Refused("top is at least 1", field="top")
        asked = self.span(since, until)
        project_id = self._project(project)
        with self._store.read() as tx:
            return report.spending(tx, self._workspace_id, by=by, project_id=project_id, span=asked, top=top)

    def span(self, since: str | date | None = None, until: str | date | None = None) -> DateRange:
        """The span that two times mean now; Refused for what is no time."""
        zone = self.timezone if isinstance(since or until, str) else calendars.DEFAULT
        return span(resolved(since, zone=zone), resolved(until, zone=zone, end=True))

    def forecast(self, *, project: str | None = None) -> SpendingOutlook:
        """What was spent today and this month, how fast money goes, and where the month will end."""
        project_id = self._project(project)
        with self._store.read() as tx:
            return outlook(tx, self._workspace_id, project_id=project_id)

    def check(self, *, repair: bool = False) -> LedgerCheck:
        """Compare every sum with the records that it is of, and make it right where *repair* asks for that."""
        return check_costs(self._store, self._workspace_id, repair=repair)

    def import_file(self, path: str | Path, *, project: str | None = None) -> ImportResult:
        """Take a costs.jsonl in: what is there already is left alone, and a file that cannot be taken whole, refused.

        Records that name no project known here are of *project*, or of that of the folder one stands in.
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
        """Give calls of unknown price the price that is known now, by corrections beside them. Safe to repeat.

        *zero*: also calls that used tokens and were told to have cost nothing; *computed*: also calls whose cost was
        computed, by prices that may have changed; *dry_run*: only say what would be corrected.
        """
        moment, _ = self.span(since).moments(self.timezone)
        wanted = RepricingRequest(self._project(project), moment, zero=zero, computed=computed)
        listed, actor = price_list.quote, self._runtime.actor
        return reprice_costs(self._store, self._workspace_id, wanted, listed=listed, actor=actor, dry_run=dry_run)

    def export(
        self, shape: Shape = "nested", *, project: str | None = None, run_id: str | None = None
    ) -> Iterator[bytes]:
        """The ledger as lines of a costs.jsonl, the oldest record first."""
        project_id = self._project(project)
        with self._store.read() as tx:
            yield from write_costs(costs.each(tx, self._workspace_id, project_id=project_id, run_id=run_id), shape)

    @property
    def timezone(self) -> str:
        """Where the workspace's days and months begin."""
        with self._store.read() as tx:
            return rollups.zone(tx, self._workspace_id)

    def set_timezone(self, name: str) -> LedgerCheck:
        """Let days and months begin there, such as ``Europe/Berlin``, and count every sum again."""
        return set_timezone(self._store, self._workspace_id, name)

    def free_but_priced(self, *, project: str | None = None, asked: DateRange | None = None) -> dict[str, int]:
        """Calls that are said to have cost nothing, of models that cost something: how many, by model.

        In a ledger of very many calls: those of days or months over which all calls of the model cost nothing.
        """
        project_id, when = self._project(project), asked or DateRange()
        with self._store.read() as tx:
            _, calls, _ = report.total(tx, self._workspace_id, project_id=project_id, span=when)
            counted = calls > _FEW and when.of_days and rollups.complete(tx, self._workspace_id)
            look = report.zero_cost_periods if counted else report.zero_cost
            return self.with_a_price(look(tx, self._workspace_id, project_id=project_id, span=when))

    def with_a_price(self, told_free: list[ZeroCost]) -> dict[str, int]:
        """How many of these calls are of models that have a price, by model."""
        free: dict[str, int] = {}
        if not told_free:
            return free
        with self._store.read() as tx:
            book = prices.open_book(tx, self._workspace_id, price_list.quote)
        for one in told_free:
            try:
                found = book.quote(one.model, one.project_id, one.at)
            except Unavailable:
                return free  # a remark about sums is not worth the sums
            if isinstance(found, Quote) and not found.price.is_free():
                free[one.model] = free.get(one.model, 0) + one.calls
        return free

    def _owner(self, tx: Connection, name: str | None) -> Project:
        if name is not None:
            return project_service.find(tx, self._workspace_id, name)
        here = git_checkout.here()
        return cost_project(tx, self._workspace_id, identity=here.identity, name=here.name, path=str(here.root))

    def _project(self, name: str | None) -> str | None:
        if name is None:
            return None
        with self._store.read() as tx:
            return project_service.find(tx, self._workspace_id, name).id
