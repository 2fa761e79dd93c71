"""${message}

Revision: ${up_revision}, after ${down_revision | comma,n}
"""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# The oldest schema whose programs still work on this one: its predecessor's value when it only adds.
works_with = ${repr(up_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
