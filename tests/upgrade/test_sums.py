"""Sums of a ledger that earlier programs have written, and write beside today's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from coordination.flows.money.check_costs import check_costs
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from coordination.store.engine import open_store
from coordination.store.queries.money import rollups
from coordination.store.queries.projects import projects
from coordination.store.reports.money.spending import spending, total
from tests.upgrade.earlier import EARLIER, Earlier, taken_from_history

WITHOUT_SUMS = next(release for release in EARLIER if release.schema == "0004")

WRITE = """
import sys
from datetime import UTC, datetime
from decimal import Decimal
from coordination.domain.money.costs import CostRecord
from coordination.store import schema
from coordination.store.engine import open_store
from coordination.store.queries.money import costs; from coordination.store.queries.projects import projects

store = open_store(sys.argv[1])
if sys.argv[2] == "prepare":
    schema.prepare(store)
schema.require(store)
with store.write() as tx:
    workspace = projects.make_workspace(tx, "default")
    for number in range(7):
        record = CostRecord(
            id=f"{sys.argv[2]}-{number}", session_id="s", project_id=None, run_id=None, task_id=None, attempt=None,
            agent=None, model="m", input_tokens=1, output_tokens=1, cached_input_tokens=0, total_tokens=2,
            cost_usd=Decimal("0.1"), stale=False, occurred_at=datetime(2026, 1, 31, 23, number, tzinfo=UTC),
        )
        costs.append(tx, workspace, [record])
store.close()
"""


def write(earlier: Earlier, url: str, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, url, how],
        cwd=earlier.folder,
        env={"PATH": "/usr/bin:/bin", **earlier.env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_ledger_is_counted_when_its_store_is_migrated_and_what_earlier_programs_add_is_found(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    earlier = taken_from_history(WITHOUT_SUMS, tmp_path / "their program")
    url = request.getfixturevalue(f"blank_{kind}_url")
    write(earlier, url, "prepare")
    settings = load_settings({"COORD_DATABASE_URL": url, "COORD_HOME": str(tmp_path / "home")})

    runtime = open_runtime(settings, migrate=True)
    found = check_costs(runtime.store, runtime.workspace_id)
    write(earlier, url, "beside")
    beside = check_costs(runtime.store, runtime.workspace_id)
    with runtime.store.read() as tx:
        short = total(tx, runtime.workspace_id)[1]
    mended = check_costs(runtime.store, runtime.workspace_id, repair=True)
    with runtime.store.read() as tx:
        whole = total(tx, runtime.workspace_id)[1]
    runtime.close()

    assert (found.complete, found.wrong) == (True, 0)
    assert (beside.complete, beside.wrong) == (True, 10)
    assert (short, whole, mended.wrong) == (7, 14, 10)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_until_it_is_counted_the_ledger_itself_is_asked(kind: str, request: pytest.FixtureRequest) -> None:
    from tests.store.test_ledgers import record

    store = open_store(request.getfixturevalue(f"{kind}_url"))
    with store.write() as tx:
        workspace = projects.make_workspace(tx, "default")
        tx.execute(text("DELETE FROM chores"))
        from coordination.store.queries.money import costs

        costs.append(tx, workspace, [record("one"), record("two", None)])

    with store.read() as tx:
        assert not rollups.complete(tx, workspace)
        assert total(tx, workspace)[1:] == (2, 1)
        for by in ("month", "model"):
            (group,) = spending(tx, workspace, by=by)
            assert (group.calls, group.unpriced_calls) == (2, 1)
    store.close()
