"""The job history: costs and durations of the latest jobs of each kind, for estimates."""

from sqlalchemy import BigInteger, Column, ForeignKey, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Json, Str, UtcTime, db_now

job_history = Table(
    "job_history",
    metadata,
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", Str, primary_key=True),
    Column("workspace_id", Id, nullable=False),
    Column("samples", Json, nullable=False),  # the latest ones
    Column("ended", BigInteger, nullable=False),  # the number of ended jobs
    Column("updated_at", UtcTime, nullable=False, default=db_now()),
)
