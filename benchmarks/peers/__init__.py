"""The other systems that are measured beside us, one file each; what each is asked for, and which of them are here.

Every file has a class ``Peer`` that is made with a `Place`, starts the peer's workers, and times it. Missing packages
are named in the results, never skipped in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

PATIENCE = 120.0
"""How long a peer may take for one measurement, in seconds."""

NEEDS = {
    "celery": "celery",
    "celery_solo": "celery",
    "celery_sql": "celery",
    "dramatiq": "dramatiq",
    "procrastinate": "procrastinate",
    "dbos": "dbos",
}
"""Which package each peer needs, in the order in which they are measured."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer finds its servers, which are ours too: the Redis socket, a new database, a folder of its own."""

    redis: Path
    redis_database: int
    new_database: Callable[[], str]
    """Makes an empty database on the PostgreSQL; its URL, ``postgresql://…``."""
    folder: Path

    def redis_url(self) -> str:
        """The peer's Redis database, for redis-py."""
        return f"unix://{self.redis}?db={self.redis_database}"

    def broker_url(self) -> str:
        """The same, for kombu."""
        return f"redis+socket://{self.redis}?virtual_host={self.redis_database}"


class Peer(Protocol):
    """A system that runs jobs, started and warm."""

    about: str
    """What was started, in a few words."""

    def __init__(self, place: Place) -> None: ...

    def no_ops(self, count: int) -> float:
        """Seconds from the first of *count* jobs that do nothing, sent, to the last, as far as this peer can tell."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


@runtime_checkable
class Chains(Protocol):
    """A peer with a way to run one job after the other."""

    def chain(self, count: int) -> float:
        """Seconds of *count* jobs in a row."""
        ...


@runtime_checkable
class Fans(Protocol):
    """A peer with a way to wait for many jobs."""

    def fan(self, count: int) -> float:
        """Seconds of one job, then *count* of them, then one that waits for all."""
        ...


@runtime_checkable
class Graphs(Protocol):
    """A peer that can be made to run any graph of jobs."""

    def graph(self, children: list[list[int]]) -> float:
        """Seconds of a graph of no-ops: by number, the jobs that each one releases."""
        ...


def missing(name: str) -> str | None:
    """Why the peer cannot be measured here, or None."""
    package = NEEDS[name]
    return None if find_spec(package) else f"{package} is not installed (make bench installs it)"


def start(name: str, place: Place) -> Any:
    """The peer of that name, its workers up."""
    return import_module(f"benchmarks.peers.{name}").Peer(place)
