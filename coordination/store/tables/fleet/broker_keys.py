"""The key that signs messages in Redis. One row per database: workers of all workspaces read one queue."""

from sqlalchemy import CheckConstraint, Column, Integer, Table

from coordination.store.tables import metadata
from coordination.store.types import Str, UtcTime, db_now

broker_keys = Table(
    "broker_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("secret", Str, nullable=False),  # 32 random bytes in hexadecimal
    Column("created_at", UtcTime, nullable=False, default=db_now()),
    CheckConstraint("id = 1", name="single"),
)
