"""Table objects and constraints, one file a noun. Foreign keys are by name, so no table imports another.

Every row belongs to a workspace; only ``workspaces`` itself, the fleet's ``workers``, and what its
machines lend (``host_leases``) stand above them.
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
"""The key in a constraint's ``info`` under which the one database that has it stands."""


def checked_on_sqlite(column: str, refers_to: str, *, ondelete: str | None = None) -> ForeignKeyConstraint:
    """A reference of a table that gets a row for every task, edge or attempt: PostgreSQL does not check it.

    There each row costs a query and a lock on the row it refers to, of which a submission has thousands. Who writes
    these rows has made, or has locked, what they refer to in the same transaction, and retention deletes them first;
    the checker of ``tests/chaos`` looks for orphans. SQLite checks them in its own process.
    """
    constraint = ForeignKeyConstraint([column], [refers_to], ondelete=ondelete, info={ONLY_ON: "sqlite"})
    return constraint.ddl_if(dialect="sqlite")
