"""Resources of one machine that running attempts hold: ports, and databases that were made for them."""

from sqlalchemy import Column, Index, Integer, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Str, UtcTime, db_now

# A lease holds for as long as its attempt is open: whatever ends an attempt ends it, and no row has to change for that.
# Above workspaces, as machines are. No reference to the attempt: retention may delete that while the database is there.
host_leases = Table(
    "host_leases",
    metadata,
    Column("host", Str, primary_key=True),
    Column("kind", Str, primary_key=True),  # port or database
    Column("name", Str, primary_key=True),  # the port's number, the database's name or its file
    Column("workspace_id", Id, nullable=False),
    Column("task_id", Id, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("origin", Str),  # of a database: what the plan says, from which its server is known
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    Index("ix_host_leases_attempt", "task_id", "attempt"),
)
