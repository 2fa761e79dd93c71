"""Table objects and constraints, one file per noun. Foreign keys are by name, so no table imports another.

Every row belongs to a workspace, except those of ``workspaces`` itself, the fleet's ``workers`` and ``host_leases``.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, MetaData, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ONLY_ON = "only on"
"""The key in a constraint's ``info`` for the only dialect that has it."""


def checked_on_sqlite(column: str, refers_to: str, *, ondelete: str | None = None) -> ForeignKeyConstraint:
    """Return a foreign key that PostgreSQL does not check, for tables with a row per task, edge or attempt.

    There each row would cost a query and a lock on the row it refers to, thousands per submission. Writers of these
    rows create or lock the referred rows in the same transaction, and retention deletes the referring rows first; the
    checker of ``tests/chaos`` looks for orphans. SQLite checks them cheaply in its own process.
    """
    constraint = ForeignKeyConstraint([column], [refers_to], ondelete=ondelete, info={ONLY_ON: "sqlite"})
    return constraint.ddl_if(dialect="sqlite")


def check_one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """Return a constraint, named like the column, that its value is one of *values*."""
    return CheckConstraint("{} IN ({})".format(column, ", ".join(f"'{value}'" for value in values)), name=column)


def partial_index(name: str, *columns: Any, where: str, unique: bool = False) -> Index:
    """Return an index of the rows for which *where* is true."""
    condition = text(where)
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)
