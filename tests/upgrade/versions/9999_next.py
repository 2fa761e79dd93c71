"""A change that a later release may make to the schema while programs of this one still use it: it only adds."""

import sqlalchemy as sa
from alembic import op

from coordination.domain.tasks.tasks import TaskState
from coordination.store import schema
from coordination.store.tables.tasks.tasks import tasks

revision = "9999"
down_revision = schema.HEAD
works_with = schema.WORKS_WITH
branch_labels = None
depends_on = None

STATES = [*TaskState, "parked"]


def upgrade() -> None:
    listed = ", ".join(f"'{state}'" for state in STATES)
    # Wherever a CHECK lists values, the first release accepts a new one, and only a later one writes it.
    with op.batch_alter_table("tasks", copy_from=tasks) as batch:
        batch.drop_constraint(op.f("ck_tasks_state"), type_="check")
        batch.create_check_constraint(op.f("ck_tasks_state"), f"state IN ({listed})")
    op.add_column("tasks", sa.Column("flavour", sa.Text(), nullable=True))
    op.create_index("ix_tasks_flavour", "tasks", ["flavour"])
    op.create_table(
        "flavours",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("known_by", sa.Text(), nullable=False),
    )
