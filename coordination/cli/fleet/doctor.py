"""``coord doctor``: checks settings, versions, database, Redis, workers and supervisors. Read-only."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from coordination.base.durations import show_duration
from coordination.base.errors import NOT_COMPLETED, CoordinationError
from coordination.base.extras import install_command
from coordination.base.host import host
from coordination.base.wording import plural
from coordination.cli.fleet import health
from coordination.cli.options import AsJson, print_json
from coordination.cli.tables import shown
from coordination.domain.tasks.tasks import RunState
from coordination.settings import Settings, client_url, load_settings, masked
from coordination.views import fleet as views

if TYPE_CHECKING:
    from coordination.store.engine import Store

_LIBRARIES = ("celery", "redis", "sqlalchemy", "psycopg", "typer", "rich", "PyYAML", "jinja2")
_EXTRAS = {"flower": "a page with workers and queues"}
_UNANSWERED = timedelta(seconds=60)
_MOST_RUNS = 1000


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    NOTE = "note"  # nothing is wrong
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check. ``hint``: how to fix the problem."""

    name: str
    verdict: Verdict
    detail: str
    hint: str | None = None


def doctor(
    *,
    live: Annotated[
        bool, Option("--live", help="Check the running work instead: what is stuck, late, lost or wrong.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check settings, database, Redis, workers and supervisors. Exit code 1 when something is wrong."""
    if live:
        raise typer.Exit(health.examine(as_json=as_json))

    settings = load_settings()
    checks = list(_checks(settings))
    healthy = all(check.verdict is not Verdict.WRONG for check in checks)
    if as_json:
        python, versions, values = platform.python_version(), _versions(), settings.shown()
        print_json(views.diagnosis(healthy=healthy, python=python, versions=versions, settings=values, checks=checks))
    else:
        print("settings")
        for name, value in settings.shown().items():
            print(f"  {name:<20} {shown(value.value)}  ({value.source})")
        print("checks")
        for check in checks:
            hint = f". {check.hint}" if check.hint else ""
            print(f"  {check.verdict:<5}  {check.name}: {shown(check.detail)}{hint}")
        print("All is well." if healthy else "Something is wrong.")
    if not healthy:
        raise typer.Exit(NOT_COMPLETED)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in ("coordination", *_LIBRARIES, *_EXTRAS):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _checks(settings: Settings) -> Iterator[Check]:
    versions = _versions()
    installed = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    yield Check("versions", Verdict.OK, f"Python {platform.python_version()}, {installed}")
    for name in _LIBRARIES:
        if versions[name] is None:
            yield Check("library", Verdict.WRONG, f"{name} is not installed", "Install the package again")
    for name, what in _EXTRAS.items():
        if versions[name] is None:
            hint = f"For it: {install_command(name)}"
            yield Check("extra", Verdict.NOTE, f"{name} ({what}) is not installed", hint)
    yield _sandbox(settings)
    yield from _accounts(settings)
    yield from _database(settings)
    yield from _redis(settings)


def _accounts(settings: Settings) -> Iterator[Check]:
    """Check whether the accounts of this machine are usable; yield nothing where there are none."""
    from coordination.adapters import keyrings
    from coordination.adapters.account_store import Accounts

    accounts = Accounts(settings.home)
    for problem in accounts.problems():
        yield Check("accounts", Verdict.WRONG, problem)
    if (names := accounts.names() if accounts.folder.is_dir() else []) and not accounts.problems():
        where = f"the keyring {keyring}, or files" if (keyring := keyrings.name()) else "files"
        yield Check("accounts", Verdict.OK, f"{plural(len(names), 'account')}, with secrets in {where}")


def _sandbox(settings: Settings) -> Check:
    """Check the sandbox that this machine supports, and whether workers with these settings can use it."""
    from coordination.base.kernel_features import MIN_LANDLOCK, detect
    from coordination.setting_values import STRICT

    features = detect()
    if not settings.confines:
        return Check("sandbox", Verdict.OK, f"off; there is {features.in_words}", "COORD_SANDBOX turns it on")
    strict = settings.sandbox == STRICT
    detail = f"{'strict' if strict else 'on'}, with {features.in_words}"
    if (strict or settings.require_sandbox) and (features.landlock < MIN_LANDLOCK or not features.seccomp):
        hint = "Workers do not start: they need Linux 6.2 or later, with landlock among lsm= of its boot parameters"
        return Check("sandbox", Verdict.WRONG, detail, hint)
    if strict and features.bubblewrap is None:
        return Check("sandbox", Verdict.WRONG, detail, "Workers do not start; run: apt install bubblewrap")
    if strict and features.problem is not None:
        hint = "Workers do not start: allow user namespaces for their user, or set COORD_SANDBOX=1"
        return Check("sandbox", Verdict.WRONG, detail, hint)
    if features.landlock < MIN_LANDLOCK or not features.seccomp:
        return Check("sandbox", Verdict.NOTE, detail, "Workers with COORD_REQUIRE_SANDBOX=1 do not start here")
    return Check("sandbox", Verdict.OK, detail)


def _database(settings: Settings) -> Iterator[Check]:
    from coordination.store import schema
    from coordination.store.engine import open_store, sqlite_path

    with closing(open_store(settings.database_url)) as store:
        path = sqlite_path(store.url)
        if path is not None and not path.exists():
            own = not settings.sources.get("database_url")
            hint = "It is created at the first use" if own else "Run: coord migrate"
            yield Check("database", Verdict.NOTE if own else Verdict.WRONG, f"{path} does not exist yet", hint)
            return
        try:
            if (pooler := _pooler(store)) is not None:
                yield pooler
                if pooler.verdict is Verdict.WRONG:
                    return  # later checks would fail intermittently
            schema.require(store)
        except CoordinationError as error:
            yield Check("database", Verdict.WRONG, error.message, error.hint)
            return
        yield Check("database", Verdict.OK, f"{masked(settings.database_url)}, schema {schema.current(store)}")
        yield from _work(settings, store)
        yield from _sums(settings, store)
        yield from _host_leases(settings, store)


def _pooler(store: Store) -> Check | None:
    """Check whether the URL fits the connection pooler of PostgreSQL; return None where there is no pooler."""
    from coordination.store.postgresql import PREPARE, PoolingMode

    pooling = store.pooling()
    if pooling is PoolingMode.TRANSACTION and not store.pooled:
        option = store.url.query.get(PREPARE)
        url = f"its URL says {PREPARE}={option}" if option else f"its URL does not say {PREPARE}=none"
        problem = f"it is in transaction mode, but {url}, so statements would be prepared for other transactions"
        return Check("pooler", Verdict.WRONG, problem, f"Add {PREPARE}=none to COORD_DATABASE_URL")
    if pooling is not PoolingMode.NONE:
        return Check("pooler", Verdict.OK, f"the database has a pooler in {pooling} mode")
    if store.pooled:
        effect = f"the database has no pooler, but its URL says {PREPARE}=none: every statement is planned anew"
        return Check("pooler", Verdict.NOTE, effect, f"Remove {PREPARE} from COORD_DATABASE_URL")
    return None


def _work(settings: Settings, store: Store) -> Iterator[Check]:
    from coordination.store.queries.fleet import workers
    from coordination.store.queries.projects import projects, stops
    from coordination.store.reports.projects import overview

    with store.read() as tx:
        workspace_id = projects.find_workspace(tx, settings.workspace)
        living = overview.list_live_workers(tx, within=settings.lease_ttl)
        serves = not workspace_id or bool(workers.list_live_for(tx, workspace_id, within=settings.lease_ttl))
        stopped = stops.list_active(tx, workspace_id) if workspace_id else []
        unanswered = workers.count_unclaimed(tx, after=_UNANSWERED)
        overview_now = None
        if workspace_id:
            thresholds, within = settings.supervision(), settings.lease_ttl
            overview_now = overview.overview(
                tx, workspace_id, thresholds=thresholds, live_within=within, most=_MOST_RUNS
            )
    for stop in stopped:
        yield Check("stopped", Verdict.NOTE, stop.sentence(), f"Resume it with: {stop.command}")
    # A stuck run waits for a person, not for a worker.
    open_in = {run.project_id for run in overview_now.runs if run.state is RunState.OPEN} if overview_now else set()
    waiting = [line for line in overview_now.projects if line.id in open_in] if overview_now else []
    if living and waiting and not serves:
        problem = f"{len(living)} alive, none runs jobs of the workspace {settings.workspace}, and work waits"
        yield Check("workers", Verdict.WRONG, problem, f"Run: COORD_WORKSPACES={settings.workspace} coord worker")
    elif living:
        slots = sum(worker.slots for worker in living)
        yield Check("workers", Verdict.OK, f"{len(living)} alive with {plural(slots, 'slot')}")
    elif waiting:
        yield Check("workers", Verdict.WRONG, "none is alive, and work waits", "Run: coord up, or coord worker")
    else:
        yield Check("workers", Verdict.NOTE, "none is alive", "coord run and coord up start some")
    if unanswered and living:
        seconds = f"{_UNANSWERED.total_seconds():g}"
        problem = f"{unanswered} queued tasks were enqueued more than {seconds} s ago and no worker has claimed them"
        hint = "Are the workers full, or do they use another Redis? See: coord status"
        yield Check("messages", Verdict.WRONG, problem, hint)
    for line in waiting:
        yield _supervisor(line)


def _sums(settings: Settings, store: Store) -> Iterator[Check]:
    """Check that the sums of costs exist, and those of yesterday and today; checking all would take too long."""

    from coordination.api.costs import check_costs
    from coordination.store.queries.money import rollups
    from coordination.store.queries.projects import projects

    with store.read() as tx:
        workspace_id = projects.find_workspace(tx, settings.workspace)
        if workspace_id is None:
            return
        yesterday = date.fromisoformat(rollups.today(tx, workspace_id)) - timedelta(days=1)
    sums = check_costs(store, workspace_id, since=yesterday)
    if not sums.complete:
        problem = "they are incomplete, so every summary reads the whole ledger"
    elif sums.wrong:
        problem = "those of yesterday and today do not match the records"
    else:
        yield Check("sums of costs", Verdict.OK, f"days begin in {sums.zone}")
        return
    yield Check("sums of costs", Verdict.WRONG, problem, "Run: coord costs check --repair")


def _host_leases(settings: Settings, store: Store) -> Iterator[Check]:
    """Check the ports and databases of attempts on this machine, and the cached results of setup commands."""
    from coordination.store.queries.fleet import host_leases
    from coordination.store.queries.fleet.host_leases import LeaseKind

    here, ports = host(), settings.ports
    with store.read() as tx:
        leased = host_leases.names_on(tx, here, LeaseKind.PORT)
        ended = {lease.name for lease in host_leases.list_ended(tx, here, LeaseKind.PORT)}
        copies = host_leases.list_ended(tx, here, LeaseKind.DATABASE)
    if used := len(leased - ended):
        full = used >= len(ports)
        hint = "Give COORD_PORTS a longer range, or tasks wait" if full else None
        usage = f"running attempts use {used:,} of {len(ports):,}"
        yield Check("ports", Verdict.NOTE if full else Verdict.OK, usage, hint)
    if copies:
        names = ", ".join(lease.name for lease in copies[:3])
        hint = "Workers of this machine drop them within about a minute, if they reach the server"
        problem = f"{plural(len(copies), 'copy', 'copies')} of ended attempts: {names}"
        yield Check("databases", Verdict.NOTE, problem, hint)
    warm = (settings.worktrees or settings.home / "worktrees") / ".warm"
    if results := len(list(warm.glob("*.lock"))):
        lifetime = show_duration(settings.warm_kept)
        yield Check("setups", Verdict.OK, f"{plural(results, 'result')} in {warm}, for {lifetime} after the last use")


def _supervisor(line: Any) -> Check:
    name = f"supervisor of {line.name}"
    hint = "A worker or beat triggers its ticks; is one alive? See: coord status"
    if line.error:
        return Check(name, Verdict.WRONG, f"its last tick failed: {line.error}", hint)
    if line.supervisor != "running":
        return Check(name, Verdict.WRONG, f"{line.supervisor}, with {line.open_runs} open runs", hint)
    return Check(name, Verdict.OK, line.supervisor)


def _redis(settings: Settings) -> Iterator[Check]:
    from coordination.store.redis.queues import read_status

    url = health.find_redis_url(settings)
    if url is None:
        from coordination.stack.redis_server import find_server

        try:
            program = find_server()
        except CoordinationError as error:
            yield Check("redis", Verdict.WRONG, error.message, error.hint)
        else:
            yield Check("redis", Verdict.NOTE, f"no stack runs on {settings.home}; coord up would start {program}")
        return
    try:
        facts = read_status(client_url(url))
    except CoordinationError as error:
        yield Check("redis", Verdict.WRONG, error.message, error.hint)
        return
    lengths = ", ".join(f"{name} {length}" for name, length in facts.lengths.items())
    yield Check("redis", Verdict.OK, f"{masked(url)}, version {facts.version}; waiting: {lengths}")
    if facts.eviction not in (None, "noeviction"):
        problem = f"it may drop messages when its memory is full (maxmemory-policy {facts.eviction})"
        yield Check("redis policy", Verdict.WRONG, problem, "Set maxmemory-policy noeviction")
    if facts.append_only is False:
        # Nothing is lost: the next sweep enqueues the tasks again.
        yield Check("redis persistence", Verdict.NOTE, "appendonly is off: after a restart, tasks are enqueued again")
