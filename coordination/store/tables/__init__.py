"""Table objects and constraints, one file per noun. Foreign keys are by name, so no table imports another.

Every row belongs to a workspace, except those of ``workspaces`` itself, the fleet's ``workers`` and ``host_leases``.
"""

from sqlalchemy import ForeignKeyConstraint, MetaData

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
