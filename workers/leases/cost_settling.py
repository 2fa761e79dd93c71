"""Record the costs that attempts reported but a killed or disconnected worker could not write to the ledger.

Their reports are files in the worker's scratch directory. A rescue on the same machine reads them first; if the rescue
ran elsewhere, they are read before the cleanup removes the directory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection

from coordination.adapters.account_store import Accounts
from coordination.base import started_jobs
from coordination.base.clock import utc_now
from coordination.base.errors import CoordinationError, DatabaseUnavailable
from coordination.domain.money.costs import CostRecord
from coordination.domain.tasks.attempts import AttemptIdentity, Usage
from coordination.flows.money.settle_reports import AttemptReport, settle_reports
from coordination.services.attempts.end import build_cost_record
from coordination.settings import load_settings
from coordination.store.engine import Store
from coordination.store.queries.money.billed_attempts import BilledAttempt, billed_attempts
from workers.leases.usage_meter import UsagePrices
from workers.runners import usage_file
from workers.runners.provider_environment import ProviderVariables
from workers.runners.secret_masking import Secrets
from workers.runners.usage_file import Fence, UnsettledReports

log = structlog.get_logger()

_AT_ONCE = 20


class CostSettling:
    """Settles unrecorded costs. Reports that could not be recorded stay on disk for the next time."""

    def __init__(self, store: Store, prices: UsagePrices) -> None:
        self._store = store
        self._prices = prices

    def settle_folder(self, folder: Path) -> bool:
        """Settle all reports of a process that has ended. Return False when the database was unavailable."""
        return self._try_to_settle(folder, usage_file.unsettled_in(folder))

    def settle_worker(self, scratch: Path, worker_id: str, *, alive: bool = False) -> bool:
        """Settle the reports of a worker of this machine. *alive*: leave its journals to the worker."""
        folder = started_jobs.folder_of(scratch, worker_id)
        if folder is None:
            return True
        if not alive:
            return self.settle_folder(folder)
        unsettled = {
            fence: UnsettledReports(reports.files)
            for fence, reports in usage_file.unsettled_in(folder).items()
            if reports.files
        }
        return self._try_to_settle(folder, unsettled, keep=True)

    def settle_own(self, folder: Path, running: Callable[[], Collection[Fence]]) -> bool:
        """Settle the reports of this process, except those of attempts that *running* returns."""
        unsettled = usage_file.unsettled_in(folder)
        in_flight = set(running()) if unsettled else ()  # read last: *unsettled* has no attempt that begins meanwhile
        return self._try_to_settle(folder, {fence: it for fence, it in unsettled.items() if fence not in in_flight})

    def _try_to_settle(self, folder: Path, unsettled: Mapping[Fence, UnsettledReports], *, keep: bool = False) -> bool:
        if not unsettled:
            return True
        try:
            self._settle(folder, unsettled, keep=keep)
        except DatabaseUnavailable as error:
            log.warning("costs of ended attempts wait to be recorded", attempts=len(unsettled), why=error.message)
            return False
        return True

    def _settle(self, folder: Path, unsettled: Mapping[Fence, UnsettledReports], *, keep: bool) -> None:
        fences = sorted(unsettled)
        for start in range(0, len(fences), _AT_ONCE):
            page = fences[start : start + _AT_ONCE]
            with self._store.read() as tx:
                billed = billed_attempts(tx, page)
            by_workspace: dict[str, list[BilledAttempt]] = {}
            for attempt in billed:
                by_workspace.setdefault(attempt.workspace_id, []).append(attempt)
            for workspace_id, group in by_workspace.items():
                reports = [AttemptReport(attempt, _read_usage(attempt, unsettled)) for attempt in group]
                self._write_or_drop(workspace_id, reports)
            if unknown := len(page) - len(billed):
                log.warning("costs of attempts that the database no longer has", attempts=unknown, folder=str(folder))
            if not keep:
                for fence in page:
                    unsettled[fence].delete()
                usage_file.discard_report(page)

    def _write_or_drop(self, workspace_id: str, reports: list[AttemptReport]) -> None:
        def settle(tx: Connection) -> int:
            return settle_reports(tx, workspace_id, reports, price=self._prices.add_cost, record=record)

        def record(by: AttemptIdentity, used: Usage) -> CostRecord:
            return build_cost_record(by, used, utc_now())

        try:
            records = self._store.transact(settle)
        except DatabaseUnavailable:
            raise
        except Exception:
            if len(reports) == 1:
                log.exception("the costs of an attempt cannot be stored", task=reports[0].by.key)
                return
            for report in reports:  # so that one failing attempt does not affect the others
                self._write_or_drop(workspace_id, [report])
        else:
            if records:
                log.warning("recorded costs of lost attempts", attempts=len(reports), records=records)


def _read_usage(attempt: BilledAttempt, unsettled: Mapping[Fence, UnsettledReports]) -> list[Usage]:
    """Return the usage of an attempt as its worker would have recorded it."""
    reports = unsettled[attempt.task_id, attempt.attempt]
    lines = [usage for path in reports.files for usage in usage_file.read_usage(str(path))[0]]
    journaled = [] if reports.journal is None else usage_file.read_journal(reports.journal)  # already masked
    return [*_secrets_to_mask(attempt.work).hide_usage(lines), *journaled]


def _secrets_to_mask(work: Mapping[str, Any]) -> Secrets:
    """Return the secrets of a job, as far as they still exist."""
    named, account = _secrets(work), work.get("account")
    if isinstance(account, str):
        try:
            return ProviderVariables(Accounts(load_settings().home), account, (), named=named)
        except CoordinationError as error:
            log.warning("usage of an attempt is recorded without masking its account's values", why=error.message)
    return Secrets(named=named)


def _secrets(work: Mapping[str, object]) -> list[str]:
    """Return the names of a job's secrets."""
    names = [*_texts(work.get("secrets"))]
    tools = work.get("tools")
    for server in tools if isinstance(tools, list) else ():
        names += _texts(server.get("secrets")) if isinstance(server, dict) else ()
    return names


def _texts(value: object) -> Iterable[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list | tuple) else ()
