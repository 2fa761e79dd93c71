"""``coord doctor --live``: finds what is stuck, late, lost or wrong in the running work. Read-only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

from coordination.base.clock import utc_now
from coordination.base.errors import NOT_COMPLETED, OK, CoordinationError
from coordination.base.host import host, job_processes
from coordination.base.ids import is_id
from coordination.cli.options import print_json
from coordination.cli.tables import shown
from coordination.domain.fleet.health import Finding
from coordination.settings import Settings, client_url, load_settings, unknown_variables
from coordination.views import fleet as views

if TYPE_CHECKING:
    from coordination.store.engine import Store

_STUCK = timedelta(seconds=60)
_MARGIN = timedelta(seconds=10)  # after a sweep, for an expired lease
_SKEW = timedelta(seconds=2)
_JUST_ENDED = timedelta(seconds=10)  # processes of an attempt may still be ending after it


def examine(*, as_json: bool) -> int:
    """Print every finding and return the exit code: 1 when one of them is wrong."""
    findings = list(findings_of(load_settings()))
    healthy = not any(finding.wrong for finding in findings)
    if as_json:
        print_json(views.findings(findings, healthy=healthy))
    else:
        for finding in findings:
            since = f" (since {shown(finding.since)})" if finding.since else ""
            verdict = "wrong" if finding.wrong else "note"
            print(f"{verdict:<5}  {finding.code}  {shown(finding.subject)}: {shown(finding.sentence)}{since}.")
            print(f"       {shown(finding.hint)}")
        print("All is well." if healthy else "Something is wrong.")
    return OK if healthy else NOT_COMPLETED


def findings_of(settings: Settings) -> Iterator[Finding]:
    """Yield the findings about settings, database, Redis and the processes of this machine."""
    from coordination.store import schema
    from coordination.store.engine import open_store, sqlite_path

    yield from _unknown_settings()
    messages, findings = _queue_length(settings)
    yield from findings
    with closing(open_store(settings.database_url)) as store:
        path = sqlite_path(store.url)
        if path is not None and not path.exists():
            yield Finding(
                "no_database", str(path), "It does not exist yet", "It is created at the first use", wrong=False
            )
            return
        try:
            schema.require(store)
            yield from _of_store(settings, store, messages)
        except CoordinationError as error:
            yield Finding(error.code, "database", error.message, error.hint or "See: coord doctor")


def _unknown_settings() -> Iterator[Finding]:
    for name, meant in unknown_variables().items():
        hint = f"Did you mean {meant}?" if meant else "Remove it; docs/settings.md lists all settings"
        yield Finding("setting_unknown", name, "There is no such setting, so it does nothing", hint)


def find_redis_url(settings: Settings) -> str | None:
    """Return the URL of the configured Redis, or of that of the running stack; None when no stack runs."""
    from coordination.stack.home import Home

    home = Home(settings.home)
    record = home.read() if settings.redis_url is None and home.is_owned() else None
    return settings.redis_url if record is None else record.redis_url


def _queue_length(settings: Settings) -> tuple[int | None, list[Finding]]:
    """Return the number of messages that wait for a worker (None: unknown), and a finding when Redis fails."""
    from coordination.store.redis.queues import read_status

    url = find_redis_url(settings)
    if url is None:
        return None, []  # no stack is running, so no Redis is expected
    try:
        return read_status(client_url(url)).lengths["jobs"], []
    except CoordinationError as error:
        return None, [Finding(error.code, "redis", error.message, error.hint or "See: coord doctor")]


def _of_store(settings: Settings, store: Store, messages: int | None) -> Iterator[Finding]:
    from coordination.store.drift import differences
    from coordination.store.queries.projects import projects
    from coordination.store.reports.fleet import health

    with store.read() as tx:
        changed = differences(tx)
    for difference in changed:
        yield Finding(
            "schema_drift",
            "database",
            f"Its tables differ from those of this program: {difference}",
            "They were changed by hand: undo that, or restore a backup; coord migrate does not repair them",
        )
    if changed:
        return  # later checks may need a missing table or column
    clock_findings = list(_clock(store))
    yield from clock_findings
    here = host() if clock_findings else ""  # this machine is reported already
    leases = settings.leases()
    patience = health.HealthThresholds(stuck=_STUCK, lease=leases.ttl, late=leases.sweep + _MARGIN)
    with store.read() as tx:
        yield from health.silent_workers(tx, patience=patience)
        yield from health.skewed_clocks(tx, patience=patience, apart=_SKEW, besides=here)
        workspace_id = projects.find_workspace(tx, settings.workspace)
        if workspace_id is None:
            return
        yield from health.unserved_queue(tx, workspace_id, patience=patience, messages=messages)
        yield from health.find_problems(tx, workspace_id, patience=patience, thresholds=settings.supervision())
    yield from _orphans(store, workspace_id)


def _clock(store: Store) -> Iterator[Finding]:
    """Compare this machine's clock with that of the database, without the time of the query."""
    from coordination.store.queries.fleet import workers
    from coordination.store.reports.fleet import health

    with store.read() as tx:
        workers.database_time(tx)  # connects
    before = utc_now()
    with store.read() as tx:
        database_time = workers.database_time(tx)
    after = utc_now()
    skew = before - database_time if before > database_time else database_time - after
    if skew > _SKEW:
        yield health.clock_finding(host(), skew if before > database_time else -skew)


def _orphans(store: Store, workspace_id: str) -> Iterator[Finding]:
    """Find processes of jobs on this machine whose attempt has ended, or is unknown."""
    from coordination.store.reports.fleet import health

    processes = job_processes()
    pairs = sorted({pair for pair in processes.values() if is_id(pair[0])})
    with store.read() as tx:
        ended, recorded = health.ended_attempts(tx, workspace_id, pairs, patience=_JUST_ENDED)
    for pid, pair in sorted(processes.items()):
        task_id, number = pair
        if pair in ended:
            yield Finding(
                "orphan_process",
                f"process {pid} on {host()}",
                f"It was started by attempt {number} of task {task_id}, which has ended",
                f"If it is not needed, end it: kill -9 {pid}",
            )
        elif pair not in recorded:
            yield Finding(
                "stranger_process",
                f"process {pid} on {host()}",
                f"It belongs to attempt {number} of task {task_id}, which this workspace does not have",
                "It may belong to another workspace or database: check there before you end it",
                wrong=False,
            )
