"""Host resources of running attempts: ports, and databases that were created for them."""

from sqlalchemy import Column, Index, Integer, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Str, UtcTime, db_now

# A lease lasts while its attempt is open: any end of the attempt ends it without a change of this row. Hosts span
# workspaces. No foreign key to the attempt: retention may delete that while the leased database exists.
host_leases = Table(
    "host_leases",
    metadata,
    Column("host", Str, primary_key=True),
    Column("kind", Str, primary_key=True),  # port or database
    Column("name", Str, primary_key=True),  # the port's number, the database's name or its file
    Column("workspace_id", Id, nullable=False),
    Column("task_id", Id, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("origin", Str),  # of a database: its URL in the plan, which names the server
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Index("ix_host_leases_attempt", "task_id", "attempt"),
)
