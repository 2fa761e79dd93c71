"""``coord doctor``: is everything that this machine needs there, and does it work? Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.errors import NOT_COMPLETED
from coordination.cli.options import AsJson, print_json

if TYPE_CHECKING:
    from coordination.settings import Settings
    from coordination.store.engine import Store

_LIBRARIES = ("celery", "redis", "sqlalchemy", "psycopg", "typer", "rich", "PyYAML", "jinja2")
_EXTRAS = {"flower": "the page that shows workers and queues"}
_UNANSWERED = timedelta(seconds=60)
_MOST_RUNS = 1000


class Verdict(StrEnum):
    """What a look at one thing came to."""

    OK = "ok"
    NOTE = "note"  # worth knowing, nothing is wrong
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``hint``: what to do about it."""

    name: str
    verdict: Verdict
    detail: str
    hint: str | None = None


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Look at the running work instead: what is stuck, late, lost or wrong in it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check settings, versions, database, Redis, workers and supervisors; exit code 1 when something is wrong."""
    import platform

    if live:
        from coordination.cli import health

        raise typer.Exit(health.examine(as_json=as_json))

    from coordination.cli.tables import shown
    from coordination.settings import load_settings

    settings = load_settings()
    checks = list(_checks(settings))
    healthy = all(check.verdict is not Verdict.WRONG for check in checks)
    if as_json:
        print_json(
            {
                "healthy": healthy,
                "python": platform.python_version(),
                "versions": _versions(),
                "settings": settings.shown(),
                "checks": checks,
            }
        )
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
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in ("coordination", *_LIBRARIES, *_EXTRAS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _checks(settings: Settings) -> Iterator[Check]:
    import platform

    from coordination.base.extras import install_command

    versions = _versions()
    known = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    yield Check("versions", Verdict.OK, f"Python {platform.python_version()}, {known}")
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
    """Whether the accounts of this machine can be used; nothing where there are none."""
    from coordination.adapters import keyrings
    from coordination.adapters.account_store import Accounts
    from coordination.base.wording import plural

    accounts = Accounts(settings.home)
    for problem in accounts.problems():
        yield Check("accounts", Verdict.WRONG, problem)
    if (names := accounts.names() if accounts.folder.is_dir() else []) and not accounts.problems():
        where = f"the keyring {found}, or files" if (found := keyrings.name()) else "files"
        yield Check("accounts", Verdict.OK, f"{plural(len(names), 'account')}, whose secrets are kept in {where}")


def _sandbox(settings: Settings) -> Check:
    """What there is to confine jobs with, and what of it workers with these settings use."""
    from coordination.base.kernel_features import ENOUGH, means
    from coordination.setting_values import STRICT

    found = means()
    if not settings.confines:
        return Check("sandbox", Verdict.OK, f"off; there is {found.in_words}", "COORD_SANDBOX turns it on")
    strict = settings.sandbox == STRICT
    detail = f"{'strict' if strict else 'on'}, with {found.in_words}"
    if (strict or settings.require_sandbox) and (found.landlock < ENOUGH or not found.seccomp):
        hint = "Workers do not begin: they need Linux 6.2 or later, with landlock among lsm= of its boot parameters"
        return Check("sandbox", Verdict.WRONG, detail, hint)
    if strict and found.bubblewrap is None:
        return Check("sandbox", Verdict.WRONG, detail, "Workers do not begin; run: apt install bubblewrap")
    if strict and found.problem is not None:
        hint = "Workers do not begin: let their user make user namespaces, or set COORD_SANDBOX=1"
        return Check("sandbox", Verdict.WRONG, detail, hint)
    if found.landlock < ENOUGH or not found.seccomp:
        return Check("sandbox", Verdict.NOTE, detail, "COORD_REQUIRE_SANDBOX=1 lets no worker begin here")
    return Check("sandbox", Verdict.OK, detail)


def _database(settings: Settings) -> Iterator[Check]:
    from coordination.base.errors import CoordinationError
    from coordination.settings import masked
    from coordination.store import schema
    from coordination.store.engine import open_store, sqlite_path

    store = open_store(settings.database_url)
    try:
        path = sqlite_path(store.url)
        if path is not None and not path.exists():
            own = not settings.sources.get("database_url")
            hint = "It is made at the first use" if own else "Run: coord migrate"
            yield Check("database", Verdict.NOTE if own else Verdict.WRONG, f"{path} does not exist yet", hint)
            return
        try:
            if (pooler := _pooler(store)) is not None:
                yield pooler
                if pooler.verdict is Verdict.WRONG:
                    return  # what is asked next may fail or not, as sessions come
            schema.require(store)
        except CoordinationError as error:
            yield Check("database", Verdict.WRONG, error.message, error.hint)
            return
        yield Check("database", Verdict.OK, f"{masked(settings.database_url)}, schema {schema.current(store)}")
        yield from _work(settings, store)
        yield from _sums(settings, store)
        yield from _lent(settings, store)
    finally:
        store.close()


def _pooler(store: Store) -> Check | None:
    """Whether the URL fits what stands before PostgreSQL; None where nothing does."""
    from coordination.store.postgresql import PREPARE, PoolingMode

    found = store.pooling()
    if found is PoolingMode.TRANSACTION and not store.pooled:
        said = store.url.query.get(PREPARE)
        url = f"its URL says {PREPARE}={said}" if said else f"its URL does not say {PREPARE}=none"
        return Check(
            "pooler",
            Verdict.WRONG,
            f"one lends a session of the server to each transaction, but {url}, so statements are prepared for others",
            f"Add {PREPARE}=none to COORD_DATABASE_URL",
        )
    if found is not PoolingMode.NONE:
        return Check("pooler", Verdict.OK, f"one stands before the database, in {found} mode")
    if store.pooled:
        return Check(
            "pooler",
            Verdict.NOTE,
            f"none stands before the database, yet its URL says {PREPARE}=none: every statement is planned anew",
            f"Leave {PREPARE} out where no pooler is",
        )
    return None


def _work(settings: Settings, store: Store) -> Iterator[Check]:
    from coordination.domain.tasks.runs import RunState
    from coordination.store.queries.fleet import serving, workers
    from coordination.store.queries.projects import projects, stops
    from coordination.store.reports.projects import overview

    with store.read() as tx:
        workspace_id = projects.workspace_named(tx, settings.workspace)
        living = overview.living(tx, within=settings.lease_ttl)
        serves = not workspace_id or bool(serving.live_for(tx, workspace_id, within=settings.lease_ttl))
        stopped = stops.active(tx, workspace_id) if workspace_id else []
        unanswered = workers.unanswered(tx, after=_UNANSWERED)
        found = (
            overview.overview(
                tx, workspace_id, thresholds=settings.supervision(), live_within=settings.lease_ttl, most=_MOST_RUNS
            )
            if workspace_id
            else None
        )
    for stop in stopped:
        yield Check("stopped", Verdict.NOTE, stop.sentence(), f"Let it go on with: {stop.command}")
    # A run that is stuck waits for a person; no worker can help it.
    moving = {run.project_id for run in found.runs if run.state is RunState.OPEN} if found else set()
    waiting = [line for line in found.projects if line.id in moving] if found else []
    if living and waiting and not serves:
        what = f"{len(living)} alive, none runs jobs of the workspace {settings.workspace}, and work waits"
        yield Check("workers", Verdict.WRONG, what, f"Run: COORD_WORKSPACES={settings.workspace} coord worker")
    elif living:
        places = sum(worker.slots for worker in living)
        yield Check("workers", Verdict.OK, f"{len(living)} alive with {places} places")
    elif waiting:
        yield Check("workers", Verdict.WRONG, "none is alive, and work waits", "Run: coord up, or coord worker")
    else:
        yield Check("workers", Verdict.NOTE, "none is alive", "coord run and coord up start some")
    if unanswered and living:
        yield Check(
            "doorbells",
            Verdict.WRONG,
            f"{unanswered} queued tasks were rung for more than {_UNANSWERED.total_seconds():g} s ago "
            "and nobody took them",
            "Are the workers full, or at another Redis? See: coord status",
        )
    for line in waiting:
        yield _supervisor(line)


def _sums(settings: Settings, store: Store) -> Iterator[Check]:
    """Whether what summaries are read from is there, and right of yesterday and today: the rest would take too long."""
    from datetime import date

    from coordination.flows.money.check_costs import check_costs
    from coordination.store.queries.money import rollups
    from coordination.store.queries.projects import projects

    with store.read() as tx:
        workspace_id = projects.workspace_named(tx, settings.workspace)
        if workspace_id is None:
            return
        yesterday = date.fromisoformat(rollups.today(tx, workspace_id)) - timedelta(days=1)
    found = check_costs(store, workspace_id, since=yesterday)
    if not found.complete:
        said = "they are incomplete, so every summary reads the whole ledger"
    elif found.wrong:
        said = "those of yesterday and today are not what the records say"
    else:
        yield Check("sums of costs", Verdict.OK, f"days begin in {found.zone}")
        return
    yield Check("sums of costs", Verdict.WRONG, said, "Run: coord costs check --repair")


def _lent(settings: Settings, store: Store) -> Iterator[Check]:
    """What this machine lends to attempts, and what setup commands made on it; nothing where none of it is used."""
    from coordination.base.durations import show_duration
    from coordination.base.host import host
    from coordination.base.wording import plural
    from coordination.store.queries.fleet import host_leases
    from coordination.store.queries.fleet.host_leases import LeaseKind

    here, ports = host(), settings.ports
    with store.read() as tx:
        taken = host_leases.names_on(tx, here, LeaseKind.PORT)
        ended = {lease.name for lease in host_leases.ended_on(tx, here, LeaseKind.PORT)}
        left = host_leases.ended_on(tx, here, LeaseKind.DATABASE)
    if lent := len(taken - ended):
        full = lent >= len(ports)
        hint = "Give COORD_PORTS a longer range, or tasks wait" if full else None
        said = f"{lent:,} of {len(ports):,} are lent to running attempts"
        yield Check("ports", Verdict.NOTE if full else Verdict.OK, said, hint)
    if left:
        names = ", ".join(lease.name for lease in left[:3])
        hint = "Workers of this machine drop them within about a minute, if they reach the server"
        yield Check(
            "databases", Verdict.NOTE, f"ended attempts have left {plural(len(left), 'copy', 'copies')}: {names}", hint
        )
    warm = (settings.worktrees or settings.home / "worktrees") / ".warm"
    if made := len(list(warm.glob("*.lock"))):
        kept = show_duration(settings.warm_kept)
        yield Check("setups", Verdict.OK, f"{plural(made, 'result')} in {warm}, for {kept} after the last use")


def _supervisor(line: Any) -> Check:
    name = f"supervisor of {line.name}"
    hint = "A worker or beat wakes it; is one alive? See: coord status"
    if line.error:
        return Check(name, Verdict.WRONG, f"its last tick failed: {line.error}", hint)
    if line.supervisor != "running":
        return Check(name, Verdict.WRONG, f"{line.supervisor}, with {line.open_runs} open runs", hint)
    return Check(name, Verdict.OK, line.supervisor)


def _redis(settings: Settings) -> Iterator[Check]:
    from coordination.base.errors import CoordinationError
    from coordination.settings import client_url, masked
    from coordination.store.redis.queues import look

    url = settings.redis_url
    if url is None:
        from coordination.stack.home import Home
        from coordination.stack.redis_server import find_server

        home = Home(settings.home)
        record = home.read() if settings.home.is_dir() and home.is_owned() else None
        if record is None:
            try:
                program = find_server()
            except CoordinationError as error:
                yield Check("redis", Verdict.WRONG, error.message, error.hint)
            else:
                yield Check("redis", Verdict.NOTE, f"no stack runs on {settings.home}; it would start {program}")
            return
        url = record.redis_url
    try:
        facts = look(client_url(url))
    except CoordinationError as error:
        yield Check("redis", Verdict.WRONG, error.message, error.hint)
        return
    lengths = ", ".join(f"{name} {length}" for name, length in facts.lengths.items())
    yield Check("redis", Verdict.OK, f"{masked(url)}, version {facts.version}; waiting: {lengths}")
    if facts.eviction not in (None, "noeviction"):
        yield Check(
            "redis policy",
            Verdict.WRONG,
            f"it may drop messages when it is full (maxmemory-policy {facts.eviction})",
            "Set maxmemory-policy noeviction",
        )
    if facts.append_only is False:
        # Nothing is lost without: SQL rings again. It only takes a sweep longer.
        yield Check("redis persistence", Verdict.NOTE, "appendonly is off: after its restart messages are rung anew")
