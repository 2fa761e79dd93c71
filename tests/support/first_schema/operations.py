"""Operations that create the tables of the first schema."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op


def checked_on_sqlite(
    column: str, refers_to: str, name: str, ondelete: str | None = None
) -> list[sa.ForeignKeyConstraint]:
    """Return the foreign key on SQLite; PostgreSQL does not check it, see ``tables.checked_on_sqlite``."""
    if op.get_bind().dialect.name == "postgresql":
        return []
    return [sa.ForeignKeyConstraint([column], [refers_to], name=op.f(name), ondelete=ondelete)]


def partial_index(name: str, table: str, columns: Sequence[Any], where: str, **options: Any) -> None:
    """Create an index of the rows for which *where* holds."""
    condition = sa.text(where)
    op.create_index(name, table, list(columns), postgresql_where=condition, sqlite_where=condition, **options)
