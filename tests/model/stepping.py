"""Transactions that stop before every statement and every commit, so that a schedule decides which one continues.

Each actor runs in a thread of its own on a connection of its own; at any time at most one of them runs, or all running
ones wait for locks. So a schedule gives the same interleaving each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, event

from coordination.base.errors import CoordinationError
from coordination.store.engine import Store
from tests.support.speed import patience

_here = threading.local()

TO_THE_END = 10_000
_PATIENCE = patience(30.0)

Schedule = Sequence[tuple[str, int]]
"""Who takes how many steps, one after the other; who is left when it ends goes on in the order of names."""

Blocked = Callable[[Sequence["Actor"], Sequence["Actor"]], bool]
"""Whether all of the first wait for locks that others hold; the second stand at their gates or have ended."""


class Stuck(AssertionError):
    """No actor continues, and none waits for a lock."""


class Actor:
    """One thread that runs *work* and stops before each statement."""

    def __init__(self, name: str, work: Callable[[], Any], changed: threading.Condition, trace: list[str]) -> None:
        self.name = name
        self.pid: int | None = None  # of the connection it used last
        self.doing = ""  # the latest statement, commit or rollback that it was allowed to run
        self.result: Any = None
        self.error: BaseException | None = None
        self.stopped = self.over = False
        self._go = False
        self._work, self._changed, self._trace = work, changed, trace
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def at_rest(self) -> bool:
        """Return whether it waits for its next turn."""
        return self.over or (self.stopped and not self._go)

    def stop_before(self, statement: str, pid: int | None) -> None:
        """Wait for the next turn; called in the actor's own thread."""
        with self._changed:
            self.pid, self.stopped = pid, True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._go, timeout=_PATIENCE * 4):
                raise Stuck(f"{self.name} was forgotten before: {statement}")
            self._go = self.stopped = False
            self.doing = statement
            self._trace.append(f"{self.name}: {' '.join(statement.split())[:110]}")

    @property
    def in_transaction(self) -> bool:
        """Return whether it has begun a transaction that it has not ended."""
        return not self.over and self.doing not in {"", "COMMIT", "ROLLBACK"}

    def go(self) -> None:
        """Give it one turn."""
        with self._changed:
            self._go = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until its thread has ended."""
        self._thread.join(timeout=_PATIENCE)

    def _run(self) -> None:
        _here.actor = self
        try:
            self.result = self._work()
        except CoordinationError as error:
            self.result = type(error).__name__  # a refusal is a result
        except BaseException as error:  # noqa: BLE001 - the test that waits for it raises it
            self.error = error
        with self._changed:
            self.over = True
            self._changed.notify_all()


@contextmanager
def gates(*stores: Store) -> Iterator[None]:
    """Let actors, and no other threads, stop before each statement and commit on these stores, within the block."""

    def statement(connection: Connection, _cursor: Any, text: str, *_rest: Any) -> None:
        _stop(connection, text)

    def commit(connection: Connection) -> None:
        _stop(connection, "COMMIT")

    def rollback(_connection: Connection) -> None:
        actor = getattr(_here, "actor", None)
        if actor is not None:
            actor.doing = "ROLLBACK"

    for store in stores:
        event.listen(store._write_engine, "before_cursor_execute", statement)
        event.listen(store._write_engine, "commit", commit)
        event.listen(store._write_engine, "rollback", rollback)
    try:
        yield
    finally:
        for store in stores:
            event.remove(store._write_engine, "before_cursor_execute", statement)
            event.remove(store._write_engine, "commit", commit)
            event.remove(store._write_engine, "rollback", rollback)


def _stop(connection: Connection, statement: str) -> None:
    actor = getattr(_here, "actor", None)
    if actor is not None:
        driver = connection.connection.dbapi_connection
        actor.stop_before(statement, getattr(getattr(driver, "info", None), "backend_pid", None))


@dataclass(frozen=True, slots=True)
class Played:
    """The result of one schedule."""

    results: dict[str, Any]
    steps: dict[str, int]
    trace: list[str]
    waited: bool  # an actor waited for a lock


def play(  # noqa: C901 - the loop and its cases
    works: dict[str, Callable[[], Any]], schedule: Schedule, blocked: Blocked
) -> Played:
    """Run these side by side as *schedule* orders; a turn of an actor that waits for a lock goes to the next."""
    changed = threading.Condition()
    trace: list[str] = []
    actors = {name: Actor(name, work, changed, trace) for name, work in works.items()}
    steps = dict.fromkeys(actors, 0)
    waited = False

    def settle() -> None:
        """Wait until each actor is at a gate, has ended, or waits for a lock."""
        nonlocal waited
        until = time.monotonic() + _PATIENCE
        while True:
            with changed:
                if changed.wait_for(lambda: all(actor.at_rest for actor in actors.values()), timeout=0.002):
                    return
            busy = [actor for actor in actors.values() if not actor.at_rest]
            resting = [actor for actor in actors.values() if actor.at_rest]
            anyone = any(not actor.over for actor in resting)
            if busy and anyone and blocked(busy, resting) and not any(actor.at_rest for actor in busy):
                waited = True
                return
            if time.monotonic() > until:
                raise Stuck(f"{[actor.name for actor in busy]} after:\n" + "\n".join(trace))

    settle()
    rest = [(name, TO_THE_END) for name in sorted(actors)] * (len(actors) + 1)
    for name, turns in [*schedule, *rest]:
        for _ in range(turns):
            if actors[name].over or not actors[name].at_rest:
                break
            actors[name].go()
            steps[name] += 1
            settle()
    for actor in actors.values():
        actor.join()
        if actor.error is not None:
            raise actor.error
    return Played({name: actor.result for name, actor in actors.items()}, steps, trace, waited)
