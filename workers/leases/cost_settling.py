"""Takes into the ledger what attempts of a worker reported that it could not write down: it was killed, or cut off.

Their files lie in the worker's own folder. Whoever rescues its attempts on the same machine reads them first; of those
that somebody elsewhere has rescued, they are found when the folder of the dead is taken away.
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
from coordination.domain.tasks.attempts import Spender, Usage
from coordination.flows.money.settle_reports import AttemptReport, settle_reports
from coordination.services.attempts.decide import cost_of
from coordination.settings import load_settings
from coordination.store.engine import Store
from coordination.store.queries.money.billed_attempts import BilledAttempt, billed_attempts
from workers.leases.usage_prices import UsagePrices
from workers.runners import cost_reports, usage_file
from workers.runners.cost_reports import Fence, UnsettledReports
from workers.runners.provider_environment import ProviderVariables
from workers.runners.secret_masking import Secrets

log = structlog.get_logger()

_AT_ONCE = 20


class CostSettling:
    """Settles for one worker process. Raises DatabaseUnavailable; what was left stays for the next one then."""

    def __init__(self, store: Store, prices: UsagePrices) -> None:
        self._store = store
        self._prices = prices

    def of_dead(self, folder: Path) -> bool:
        """Settle all in the folder of a process that is gone; whether that was possible."""
        return self._guarded(folder, cost_reports.leftovers_in(folder))

    def of_worker(self, scratch: Path, worker_id: str, *, lives: bool = False) -> bool:
        """The same of a worker of this machine. *lives*: it may go on, and what it was told itself is its to write."""
        folder = started_jobs.folder_of(scratch, worker_id)
        if folder is None:
            return True
        if not lives:
            return self.of_dead(folder)
        left = {
            fence: UnsettledReports(one.files) for fence, one in cost_reports.leftovers_in(folder).items() if one.files
        }
        return self._guarded(folder, left, keep=True)

    def of_own(self, folder: Path, held: Callable[[], Collection[Fence]]) -> bool:
        """The same of this process, without those attempts that it has *held* when the files were looked at."""
        left = cost_reports.leftovers_in(folder)
        running = set(held()) if left else ()  # after that look: what begins meanwhile is not in it
        return self._guarded(folder, {fence: one for fence, one in left.items() if fence not in running})

    def _guarded(self, folder: Path, left: Mapping[Fence, UnsettledReports], *, keep: bool = False) -> bool:
        if not left:
            return True
        try:
            self._settle(folder, left, keep=keep)
        except DatabaseUnavailable as error:
            log.warning("costs of ended attempts wait to be recorded", attempts=len(left), why=error.message)
            return False
        return True

    def _settle(self, folder: Path, left: Mapping[Fence, UnsettledReports], *, keep: bool) -> None:
        fences = sorted(left)
        for start in range(0, len(fences), _AT_ONCE):
            some = fences[start : start + _AT_ONCE]
            with self._store.read() as tx:
                billed = billed_attempts(tx, some)
            by_workspace: dict[str, list[BilledAttempt]] = {}
            for one in billed:
                by_workspace.setdefault(one.workspace_id, []).append(one)
            for workspace_id, group in by_workspace.items():
                self._write_or_drop(workspace_id, [AttemptReport(one, _used(one, left)) for one in group])
            if unknown := len(some) - len(billed):
                log.warning("costs of attempts that are in the database no more", attempts=unknown, folder=str(folder))
            if not keep:
                for fence in some:
                    left[fence].take_away()
                cost_reports.discard(some)

    def _write_or_drop(self, workspace_id: str, reported: list[AttemptReport]) -> None:
        try:
            self._write(workspace_id, reported)
        except DatabaseUnavailable:
            raise
        except Exception:
            if len(reported) == 1:
                log.exception("what an attempt has spent cannot be stored", task=reported[0].by.key)
                return
            for one in reported:  # others' money must not be lost for it
                self._write_or_drop(workspace_id, [one])

    def _write(self, workspace_id: str, reported: list[AttemptReport]) -> None:
        def settle(tx: Connection) -> int:
            return settle_reports(tx, workspace_id, reported, price=self._prices.one, record=_record)

        if records := self._store.transact(settle):
            log.warning("recorded what lost attempts had spent", attempts=len(reported), records=records)


def _record(by: Spender, used: Usage) -> CostRecord:
    return cost_of(by, used, utc_now())


def _used(attempt: BilledAttempt, left: Mapping[Fence, UnsettledReports]) -> list[Usage]:
    """What one attempt has used, as it would have been recorded."""
    found = left[attempt.task_id, attempt.attempt]
    lines = [one for path in found.files for one in usage_file.read(str(path))[0]]
    told = [] if found.journal is None else cost_reports.read_journal(found.journal)  # which hides what is to be hidden
    return [*_hidden(attempt.work).hide_usage(lines), *told]


def _hidden(work: Mapping[str, Any]) -> Secrets:
    """What to hide of a job: as much of it as is still there."""
    named, account = _secrets(work), work.get("account")
    if isinstance(account, str):
        try:
            return ProviderVariables(Accounts(load_settings().home), account, (), named=named)
        except CoordinationError as error:
            log.warning("what an attempt has spent is recorded without its account's values", why=error.message)
    return Secrets(named=named)


def _secrets(work: Mapping[str, object]) -> list[str]:
    """The names of a job's secrets."""
    found = [*_texts(work.get("secrets"))]
    tools = work.get("tools")
    for server in tools if isinstance(tools, list) else ():
        found += _texts(server.get("secrets")) if isinstance(server, dict) else ()
    return found


def _texts(value: object) -> Iterable[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else ()
