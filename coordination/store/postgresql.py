"""Connections to PostgreSQL: parameters of the URL, settings of our sessions, and poolers.

On a direct connection our settings are start-up options, which cost nothing. A pooler in transaction mode (PgBouncer)
refuses or drops those, and uses another session for each transaction. The URL declares it with
``prepare_threshold=none``: then nothing is prepared, and every transaction sets its settings itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, Connection

from coordination.base.errors import Refused

PREPARE = "prepare_threshold"
POOLED = f"{PREPARE}=none"
POOLER_HINT = f"A pooler such as PgBouncer needs ?{POOLED} at the end of COORD_DATABASE_URL"

# idle_in_transaction: a suspended process loses its locks before others give up waiting (lock_timeout).
# enable_seqscan: a plan from when a table was small, or from old statistics, would scan the whole table for hours.
# jit: scans without an index still happen; up to PostgreSQL 17 their assumed cost triggers 0.1 s of compilation.
# plan_cache_mode: one plan of a hot statement fits all values; planning a claim takes twice as long as executing it.
_OURS = {
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "15s",
    "enable_seqscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
_ALWAYS = {"TimeZone": "UTC"}
_UNLESS_NAMED = {
    "connect_timeout": 5,
    "application_name": "coordination",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_OTHERS_NAMES = {"search_path", "schema", "currentschema"}
_PROBES = 5
_PLAIN = re.compile(r"\w+")
_SET = re.compile(r"(?:-c\s*|--)(?P<name>[A-Za-z_][\w.-]*)=(?P<value>(?:\\.|\S)*)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A URL for SQLAlchemy, its connect arguments, and the settings (``each``) that every transaction sets itself."""

    url: URL
    arguments: dict[str, Any]
    each: dict[str, str]

    @property
    def pooled(self) -> bool:
        """Whether it declares a pooler in transaction mode."""
        return bool(self.each)


def address_of(url: URL) -> DatabaseAddress:
    """Return the address in *url*, with our own settings. Raises Refused for parameters that libpq does not know."""
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    _check_names(query)
    url_options = query.get("options", "")
    arguments: dict[str, Any] = {name: value for name, value in _UNLESS_NAMED.items() if name not in query}
    threshold = _threshold(query)
    if threshold != "":
        arguments[PREPARE] = threshold
    url = url.set(drivername="postgresql+psycopg").difference_update_query([PREPARE, "options"])
    if threshold is None:
        return DatabaseAddress(url, arguments, each={**_OURS, **_settings(url_options), **_ALWAYS})
    own, always = ([f"-c {name}={value}" for name, value in settings.items()] for settings in (_OURS, _ALWAYS))
    arguments["options"] = " ".join([*own, url_options, *always])
    return DatabaseAddress(url, arguments, each={})


def engine_of(address: DatabaseAddress, *, pool_size: int) -> Engine:
    """Return an engine for *address*, which connects lazily."""
    engine = create_engine(
        address.url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=30,
        pool_recycle=3600,
        pool_use_lifo=True,
        connect_args=address.arguments,
    )
    if address.each:
        statement = _local(address.each)

        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql(statement)

        event.listen(engine, "begin", on_begin)
    return engine


def _local(settings: dict[str, str]) -> str:
    """Return the statements that set *settings* for a transaction in one round trip, without parameters to plan.

    Uses ``set_config`` for values that may be lists, which SET would take for one name.
    """
    plain = [f"SET LOCAL {name} = {_literal(value)}" for name, value in settings.items() if _PLAIN.fullmatch(value)]
    lists = {name: value for name, value in settings.items() if not _PLAIN.fullmatch(value)}
    calls = ", ".join(f"set_config({_literal(name)}, {_literal(value)}, true)" for name, value in lists.items())
    return "; ".join([*plain, *([f"SELECT {calls}"] if calls else [])]).replace("%", "%%")


def _literal(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'" if "\\" not in quoted else "E'" + quoted.replace("\\", "\\\\") + "'"


class PoolingMode(StrEnum):
    """The kinds of poolers before the server."""

    NONE = "none"
    SESSION = "session"  # one server session for each of ours
    TRANSACTION = "transaction"  # another server session for each transaction


def pooling_of(engine: Engine) -> PoolingMode:
    """Return which pooler is before the server, detected from its sessions' process ids, which poolers do not announce.

    Two open connections that meet in one server session show pooling by transaction.
    """
    with engine.connect() as first, engine.connect() as second:
        drivers: list[Any] = [each.connection.driver_connection for each in (first, second)]
        announced = [driver.info.backend_pid for driver in drivers]
        seen: list[set[int]] = [set(), set()]
        for _ in range(_PROBES):
            for driver, numbers in zip(drivers, seen, strict=True):
                numbers.add(driver.execute("SELECT pg_backend_pid()", prepare=False).fetchone()[0])
                driver.rollback()
        if seen == [{number} for number in announced]:
            return PoolingMode.NONE
        return PoolingMode.TRANSACTION if seen[0] & seen[1] or max(map(len, seen)) > 1 else PoolingMode.SESSION


def _threshold(query: dict[str, str]) -> int | str | None:
    """Return after how many executions statements are prepared; None for never, "" if the URL does not say."""
    text = query.get(PREPARE, "").strip()
    if text.lower() == "none":
        return None
    if not text or re.fullmatch(r"\d{1,6}", text, re.ASCII):
        return int(text) if text else ""
    raise Refused(
        f"The URL of the database has {PREPARE}={text[:40]}",
        hint=f"Write a number, or {POOLED} to prepare nothing, for poolers in transaction mode",
    )


def _check_names(query: dict[str, str]) -> None:
    from psycopg import pq

    names = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {PREPARE}
    for name in sorted(query.keys() - names):
        if name.lower() in _OTHERS_NAMES:
            hint = f"Write ?options=-csearch_path%3D{query[name]}"
        elif name.lower() == "pgbouncer":
            hint = f"Write ?{POOLED}"
        else:
            hint = "See the list of libpq's connection parameters in PostgreSQL's manual"
        raise Refused(f"The URL of the database has an option {name[:40]!r} that PostgreSQL does not know", hint=hint)


def _settings(options: str) -> dict[str, str]:
    """Return the settings in start-up options, by name."""
    settings: dict[str, str] = {}
    rest = options.strip()
    while rest:
        option = _SET.match(rest)
        if option is None:
            raise Refused(
                f"The URL of the database has options that no pooler passes on: {rest[:80]!r}",
                hint="Write settings as -c name=value",
            )
        settings[option["name"].replace("-", "_")] = re.sub(r"\\(.)", r"\1", option["value"], flags=re.DOTALL)
        rest = rest[option.end() :]
    return settings
