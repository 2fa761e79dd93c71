"""Real stores that fail at a moment that the test chooses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection

from coordination.base.errors import DatabaseUnavailable
from coordination.store.engine import Store


class Around(Store):
    """A real store with code between it and its user."""

    def __init__(self, store: Store) -> None:
        self.__dict__ |= store.__dict__
        self.store = store


class Away(Around):
    """A store whose database is unreachable."""

    def write(self) -> AbstractContextManager[Connection]:
        raise DatabaseUnavailable("away")


class Unanswered(Around):
    """A store whose connection breaks in the first commit: before the commit, or before its answer."""

    def __init__(self, store: Store, *, commits: bool = True) -> None:
        super().__init__(store)
        self.commits, self.broken = commits, False

    @contextmanager
    def write(self) -> Iterator[Connection]:
        breaks, self.broken = not self.broken, True
        with self.store.write() as tx:
            yield tx
            if breaks and not self.commits:
                raise DatabaseUnavailable("the connection is lost")
        if breaks:
            raise DatabaseUnavailable("the connection is lost")


class Failing(Around):
    """A store whose first *times* writes fail with *error*; ``succeeded`` is set by the first that does not."""

    def __init__(self, store: Store, error: Exception, *, times: int) -> None:
        super().__init__(store)
        self.error = error
        self.times = times
        self.failed = self.writes = 0
        self.succeeded = threading.Event()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        if self.failed < self.times:
            self.failed += 1
            raise self.error
        with self.store.write() as tx:
            yield tx
        self.writes += 1
        self.succeeded.set()
