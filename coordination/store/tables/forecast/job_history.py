"""What the latest jobs of each kind cost and how long they took: what the next one is expected to."""

from sqlalchemy import BigInteger, Column, ForeignKey, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Json, Str, UtcTime, db_now

job_history = Table(
    "job_history",
    metadata,
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", Str, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("samples", Json, nullable=False),  # the latest ones, bounded
    Column("ended", BigInteger, nullable=False),  # how many there were
    Column("updated_at", UtcTime, nullable=False, default=db_now()),
)
