"""An index for what is due: every process asks for the project that has waited longest, some thousand times a second.

Revision: 0003. Only adds, so programs of 0001 and 0002 go on working beside those of 0003.
"""

import sqlalchemy as sa
from alembic import op

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
