"""Sums of the cost ledger, changed in the transaction that writes its records."""

from sqlalchemy import BigInteger, Column, Integer, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Money, Str

rollups = Table(
    "rollups",
    metadata,
    Column("workspace_id", Id, primary_key=True),
    Column("dimension", Str, primary_key=True),
    Column("grain", Str, primary_key=True),  # day or month, in the workspace's time zone
    Column("starts", Str, primary_key=True),  # its first day, as 2027-01-31
    Column("key", Str, primary_key=True),
    Column("project_id", Str, primary_key=True),
    Column("shard", Integer, primary_key=True),  # writers have rows of their own, so that they do not wait for another
    Column("calls", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("cost_usd", Money, nullable=False),
)
