"""One cache of compiled statements for all stores of a test process: a database for each test, but the same statements.

Without it, a quarter of the time of tests with a store would go into compiling the same statements again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Dialect, Engine


class _Compiled(dict[tuple[Any, ...], Any]):
    """The cache by statement and kind of database; the engines' own caches are by statement and engine."""

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return super().get(_of_any_engine(key), default)

    def __rich_repr__(self) -> Iterator[int]:
        """Keep tracebacks short that show local variables: many of them include it, with thousands of statements."""
        yield len(self)

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        super().__setitem__(_of_any_engine(key), compiled)


def _of_any_engine(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part.name if isinstance(part, Dialect) else part for part in key)


def share_compiled() -> None:
    """Let all stores that this process opens from now on share one cache."""
    from coordination.store import engine

    compiled, create = _Compiled(), engine.create_engine

    def sharing(*args: Any, **options: Any) -> Engine:
        created = create(*args, **options)
        created.update_execution_options(compiled_cache=compiled)
        return created

    engine.create_engine = sharing
