"""The first schema: every table.

Revision: 0001
"""

from coordination.store.migrations.first_schema import money, work, workspaces

revision = "0001"
down_revision = None
works_with = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    workspaces.create()
    work.create()
    money.create()
