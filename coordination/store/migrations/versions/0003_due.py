"""An index for what is due, which every process asks for all the time; and what each worker's own clock says.

Revision: 0003. Only adds, so programs of 0001 and 0002 go on working beside those of 0003.
"""

import sqlalchemy as sa
from alembic import op

from coordination.store import types

revision = "0003"
down_revision = "0002"
works_with = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    alive = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_supervisors_heartbeat", "supervisors", ["heartbeat_at"], postgresql_where=alive, sqlite_where=alive
    )
    op.add_column("workers", sa.Column("clock_at", types.UtcTime(), nullable=True))
