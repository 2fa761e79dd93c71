"""Workers that race for the budget of one run: jobs of unknown true cost, checked by triggers in the database.

``python -m tests.support.money_race URL WORKSPACE PROJECT SEED THREADS`` is one process of it; it ends when nothing can
be claimed any more, and prints how many jobs it completed.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, select, text

from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome, Usage
from coordination.flows.attempts.finish import DispatchTerms
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.services.attempts.end import build_cost_record, decide_end
from coordination.store.engine import Store, open_store
from coordination.store.tables.tasks.tasks import tasks
from tests.support.finishing import finish_all
from tests.support.ticks import tick_supervisor

ESTIMATE = Decimal("0.10")
BATCH = 8

_POSTGRES_WATCH = """
CREATE FUNCTION watch_caps() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE taken numeric; cap numeric; started bigint; most bigint;
BEGIN
    SELECT u.spent_usd + u.reserved_usd, b.usd, u.spent_starts, b.max_starts INTO taken, cap, started, most
    FROM budget_uses u JOIN budgets b ON b.id = u.budget_id WHERE u.budget_id = NEW.budget_id AND u.starts = NEW.starts;
    IF taken > cap THEN RAISE EXCEPTION 'the cap % was passed: %', cap, taken; END IF;
    IF started > most THEN RAISE EXCEPTION 'the cap of % starts was passed: %', most, started; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER watch_caps AFTER INSERT OR UPDATE ON budget_uses
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch_caps();
"""
# Amounts of the race are multiples of a millionth, so that REAL compares them exactly.
_SQLITE_WATCH = """
CREATE TRIGGER watch_caps AFTER UPDATE ON budget_uses
WHEN round((CAST(NEW.spent_usd AS REAL) + CAST(NEW.reserved_usd AS REAL)) * 1000000)
    > (SELECT round(CAST(usd AS REAL) * 1000000) FROM budgets WHERE id = NEW.budget_id)
    OR NEW.spent_starts > (SELECT max_starts FROM budgets WHERE id = NEW.budget_id)
BEGIN SELECT RAISE(ABORT, 'the cap was passed'); END
"""


def watch(store: Store) -> None:
    """Let the database refuse every transaction after which a budget is exceeded."""
    with store.write() as tx:
        tx.execute(text(_POSTGRES_WATCH if tx.dialect.name == "postgresql" else _SQLITE_WATCH))


def costing(_tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Let every job cost up to ESTIMATE."""
    from coordination.domain.money.estimates import PLAN, Estimate

    return {row["id"]: Estimate(ESTIMATE, 0, 0, PLAN) for row in rows}


class Racer:
    """One worker: claims a few jobs, checkpoints some, ends them, and begins again."""

    def __init__(self, store: Store, workspace: str, project: str, seed: str) -> None:
        self._store, self._workspace, self._project = store, workspace, project
        self._chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
        self._worker = new_id()
        self.done = 0

    def run(self) -> None:
        """Run until nothing can be claimed any more."""
        idle = 0
        while idle < 3:
            claims = self._claim()
            if claims:
                idle = 0
                self._work(claims)
            elif self._tick():
                idle = 0
            else:
                idle += not self._others_run()
                time.sleep(0.05)

    def _claim(self) -> list[Claim]:
        with self._store.read() as tx:
            queued = list(
                tx.execute(
                    select(tasks.c.id).where(tasks.c.project_id == self._project, tasks.c.state == "queued").limit(100)
                ).scalars()
            )
        if not queued:
            return []
        wanted = self._chance.sample(queued, min(len(queued), BATCH))
        return self._store.transact(
            lambda tx: claim_tasks(
                tx,
                self._workspace,
                wanted,
                worker_id=self._worker,
                lease=timedelta(minutes=10),
                estimator=costing,
            ),
            patience=timedelta(minutes=2),
        )

    def _work(self, claims: Sequence[Claim]) -> None:
        ends: list[EndedAttempt] = []
        for claim in claims:
            true = Decimal(self._chance.randrange(int(ESTIMATE * 1_000_000) + 1)) / 1_000_000
            if self._chance.random() < 0.2:
                part = Decimal(self._chance.randrange(int(true * 1_000_000) + 1)) / 1_000_000
                record = build_cost_record(claim, _call(part), datetime.now(UTC))
                self._store.transact(
                    lambda tx, record=record: checkpoint_costs(tx, self._workspace, [record]),
                    patience=timedelta(minutes=2),
                )
                true -= part
            lost = self._chance.random() < 0.02
            outcome = Outcome.HANDED_BACK if lost else Outcome.COMPLETED
            self.done += not lost
            end = AttemptEnd(outcome, job_started=not lost or self._chance.random() < 0.5)
            ended = decide_end(claim, end, now=datetime.now(UTC))
            ends.append(replace(ended, costs=(build_cost_record(claim, _call(true), datetime.now(UTC)),)))
        terms = DispatchTerms(8, lambda _kind: 1, refill=False)
        self._store.transact(
            lambda tx: finish_all(tx, self._workspace, ends, worker_id=self._worker, terms=terms),
            patience=timedelta(minutes=2),
        )

    def _tick(self) -> bool:
        """Queue the held tasks that fit again; return whether there are any."""
        ticked = tick_supervisor(
            self._store, self._workspace, self._project, owner=self._worker, window=1, estimator=costing
        )
        if ticked is None:
            return False
        with self._store.read() as tx:
            result = select(tasks.c.id).where(tasks.c.project_id == self._project, tasks.c.state == "queued").limit(1)
            return tx.execute(result).first() is not None

    def _others_run(self) -> bool:
        with self._store.read() as tx:
            result = select(tasks.c.id).where(tasks.c.project_id == self._project, tasks.c.state == "running").limit(1)
            return tx.execute(result).first() is not None


def _call(dollars: Decimal) -> Usage:
    return Usage("m", input_tokens=1, cost_usd=dollars)


def race(store: Store, workspace: str, project: str, *, seed: str, threads: int) -> int:
    """Run so many workers in threads of this process; return how many jobs they completed."""
    racers = [Racer(store, workspace, project, f"{seed}-{number}") for number in range(threads)]
    failed: list[BaseException] = []

    def run(racer: Racer) -> None:
        try:
            racer.run()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            failed.append(error)

    running = [threading.Thread(target=run, args=(racer,)) for racer in racers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]
    return sum(racer.done for racer in racers)


if __name__ == "__main__":
    url_, workspace_, project_, seed_, threads_ = sys.argv[1:]
    print(race(open_store(url_), workspace_, project_, seed=seed_, threads=int(threads_)))  # noqa: T201
