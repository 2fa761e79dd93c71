"""The first schema, where migrations begin. Revision: 0001.

No database is migrated to it: ``schema.prepare`` creates new ones from the tables. Tests have a frozen copy of it
(``tests/support/first_schema``), from which they migrate.
"""

from coordination.base.errors import SchemaMismatch

revision = "0001"
down_revision = None
works_with = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    raise SchemaMismatch("The database has no tables yet, and no migration creates them", hint="Run: coord migrate")
