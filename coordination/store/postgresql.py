"""How PostgreSQL is connected to: what a URL may say, what our sessions have set, what a pooler lets through.

On a direct connection our settings are start-up options: they cost nothing. A pooler in transaction mode (PgBouncer)
refuses those, or gives them to nobody, and lends each transaction another session. It is known by
``prepare_threshold=none`` in the URL: then nothing is prepared, and every transaction sets what it needs for itself.
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

# Whoever stops in the middle of a transaction loses it, and its locks, before others give up waiting. Without scans of
# whole tables: a plan that was made while a table was small, or from figures of that time, would read all of it for
# hours. What has no index is read whole all the same; up to PostgreSQL 17 that counts as so dear that it would be
# compiled first, for a tenth of a second. The hot statements are long, and written so that one plan fits whatever is
# asked for: to plan a claim anew for its values takes twice as long as to execute it.
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
_LOOKS = 5
_PLAIN = re.compile(r"\w+")
_SET = re.compile(r"(?:-c\s*|--)(?P<name>[A-Za-z_][\w.-]*)=(?P<value>(?:\\.|\S)*)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A URL that SQLAlchemy connects to, the arguments beside it, and what every transaction sets for itself."""

    url: URL
    arguments: dict[str, Any]
    each: dict[str, str]

    @property
    def pooled(self) -> bool:
        """Whether it is meant to lead to a pooler in transaction mode."""
        return bool(self.each)


def address_of(url: URL) -> DatabaseAddress:
    """What *url* says, with our own settings. Raises Refused for what libpq does not know."""
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    _check_names(query)
    theirs = query.get("options", "")
    arguments: dict[str, Any] = {name: value for name, value in _UNLESS_NAMED.items() if name not in query}
    threshold = _threshold(query)
    if threshold != "":
        arguments[PREPARE] = threshold
    url = url.set(drivername="postgresql+psycopg").difference_update_query([PREPARE, "options"])
    if threshold is None:
        return DatabaseAddress(url, arguments, each={**_OURS, **_settings(theirs), **_ALWAYS})
    said = [f"-c {name}={value}" for name, value in _OURS.items()]
    arguments["options"] = " ".join([*said, theirs, *(f"-c {name}={value}" for name, value in _ALWAYS.items())])
    return DatabaseAddress(url, arguments, each={})


def engine_of(address: DatabaseAddress, *, pool_size: int) -> Engine:
    """An engine for *address*; connects lazily."""
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
    """One trip that sets *settings* for the present transaction; without parameters, so that nothing is planned.

    ``set_config`` where a value may be a list, which SET would take for one name.
    """
    plain = [f"SET LOCAL {name} = {_literal(value)}" for name, value in settings.items() if _PLAIN.fullmatch(value)]
    lists = {name: value for name, value in settings.items() if not _PLAIN.fullmatch(value)}
    calls = ", ".join(f"set_config({_literal(name)}, {_literal(value)}, true)" for name, value in lists.items())
    return "; ".join([*plain, *([f"SELECT {calls}"] if calls else [])]).replace("%", "%%")


def _literal(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'" if "\\" not in quoted else "E'" + quoted.replace("\\", "\\\\") + "'"


class PoolingMode(StrEnum):
    """What stands between us and the server."""

    NONE = "none"
    SESSION = "session"  # one session of the server for each of ours, as long as it lasts
    TRANSACTION = "transaction"  # another session for each transaction


def pooling_of(engine: Engine) -> PoolingMode:
    """What stands before the server, by asking it: a pooler cannot know its sessions' numbers when we connect.

    Two connections that are open together and meet in one session of the server show that these are lent.
    """
    with engine.connect() as one, engine.connect() as other:
        drivers: list[Any] = [each.connection.driver_connection for each in (one, other)]
        announced = [driver.info.backend_pid for driver in drivers]
        seen: list[set[int]] = [set(), set()]
        for _ in range(_LOOKS):
            for driver, numbers in zip(drivers, seen, strict=True):
                numbers.add(driver.execute("SELECT pg_backend_pid()", prepare=False).fetchone()[0])
                driver.rollback()
        if seen == [{number} for number in announced]:
            return PoolingMode.NONE
        return PoolingMode.TRANSACTION if seen[0] & seen[1] or max(map(len, seen)) > 1 else PoolingMode.SESSION


def _threshold(query: dict[str, str]) -> int | str | None:
    """After how many executions statements are prepared: a number, None for never, "" where the URL does not say."""
    text = query.get(PREPARE, "").strip()
    if text.lower() == "none":
        return None
    if not text or re.fullmatch(r"\d{1,6}", text, re.ASCII):
        return int(text) if text else ""
    raise Refused(
        f"The URL of the database says {PREPARE}={text[:40]}",
        hint=f"Write a number, or {POOLED} to prepare nothing, as poolers in transaction mode need it",
    )


def _check_names(query: dict[str, str]) -> None:
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {PREPARE}
    for name in sorted(query.keys() - known):
        if name.lower() in _OTHERS_NAMES:
            hint = f"Write ?options=-csearch_path%3D{query[name]}"
        elif name.lower() == "pgbouncer":
            hint = f"Write ?{POOLED}"
        else:
            hint = "See the list of libpq's connection parameters in PostgreSQL's manual"
        raise Refused(f"The URL of the database has an option {name[:40]!r} that PostgreSQL does not know", hint=hint)


def _settings(options: str) -> dict[str, str]:
    """The settings in start-up options, by name."""
    found: dict[str, str] = {}
    rest = options.strip()
    while rest:
        one = _SET.match(rest)
        if one is None:
            raise Refused(
                f"The URL of the database has options that no pooler passes on: {rest[:80]!r}",
                hint="Write settings as -c name=value",
            )
        found[one["name"].replace("-", "_")] = re.sub(r"\\(.)", r"\1", one["value"], flags=re.DOTALL)
        rest = rest[one.end() :]
    return found
