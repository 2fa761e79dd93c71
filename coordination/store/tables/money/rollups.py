"""Totals of the cost ledger, updated in the transaction that writes its records.

Keys and projects that a record does not have are empty texts. The shard ARCHIVED has the totals of records that
retention has deleted; the sum of the other shards equals the stored records exactly.
"""

from sqlalchemy import BigInteger, Column, Integer, Table

from coordination.store.tables import metadata
from coordination.store.types import Id, Money, Str

ARCHIVED = -1

rollups = Table(
    "rollups",
    metadata,
    Column("workspace_id", Id, primary_key=True),
    Column("dimension", Str, primary_key=True),
    Column("grain", Str, primary_key=True),  # day or month, in the workspace's time zone
    Column("starts", Str, primary_key=True),  # the first day, as 2027-01-31
    Column("key", Str, primary_key=True),
    Column("project_id", Str, primary_key=True),
    Column("shard", Integer, primary_key=True),  # concurrent writers use different rows, so that nobody waits
    Column("calls", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("cost_usd", Money, nullable=False),
    postgresql_with={"fillfactor": "50"},
)
