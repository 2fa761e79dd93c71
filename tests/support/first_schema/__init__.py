"""The database of the first release, as its programs created it. Frozen: tests migrate it to the present schema."""

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import text

from coordination.store.compatibility import set_works_with
from coordination.store.engine import Store
from coordination.store.tables import metadata
from tests.support.first_schema import money, work, workspaces


def create_first_schema(store: Store) -> None:
    """Create the tables and the version of the first schema in an empty database."""
    with store.write() as tx:
        with Operations.context(MigrationContext.configure(tx, opts={"target_metadata": metadata})):
            workspaces.create()
            work.create()
            money.create()
        tx.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        tx.execute(text("INSERT INTO alembic_version (version_num) VALUES ('0001')"))
        set_works_with(tx, "0001")
