"""Test imports of issues: they replace the previous ones at once; jobs close them, unless the tracker disagrees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from coordination.base.errors import Refused
from coordination.domain.issues.completion import close_issue
from coordination.domain.issues.record import Issue
from coordination.domain.plans.plans import Plan, Task
from coordination.domain.projects.projects import ProjectStatus
from coordination.flows.issues.import_issues import import_issues
from coordination.flows.plans.submit_plan import PlanOrigin, submit_plan
from coordination.flows.projects.change_project import end_project
from coordination.formats.beads import read_issues
from coordination.store.engine import Store
from coordination.store.queries.issues import issues as rows
from coordination.store.queries.projects import projects
from coordination.store.reports.issues.tracker import list_issues
from tests.support.refusals import refuses

IDENTITY = "example.org/acme/shop"


def some(*ids: str) -> list[Issue]:
    return read_issues("\n".join(f'{{"id":"{one}","title":"t {one}","status":"open"}}' for one in ids).encode())


def workspace(store: Store) -> str:
    return store.transact(lambda tx: projects.get_or_create_workspace(tx, "default"))


def test_an_import_replaces_and_keeps_the_jobs_of_issues_that_stay(store: Store) -> None:
    ws = workspace(store)
    plan = Plan([Task("x-1", {"shell": "true"}, metadata={"issue": "x-1"})])
    origin = PlanOrigin(identity=IDENTITY, name="shop", creator="user:me")
    done = store.transact(lambda tx: submit_plan(tx, ws, plan, origin, issues=some("x-1", "x-2")))

    again = store.transact(lambda tx: import_issues(tx, ws, some("x-3", "x-1"), identity=IDENTITY, name="shop"))

    assert (again.project_id, again.issues, again.replaced) == (done.project_id, 2, 2)
    with store.read() as tx:
        listed = [(row["id"], row["task_id"]) for row in rows.list_all(tx, ws, done.project_id)]
    assert listed == [("x-3", None), ("x-1", done.task_ids["x-1"])]


def test_a_plan_that_is_refused_leaves_the_issues_as_they_were(store: Store) -> None:
    ws = workspace(store)
    before = store.transact(lambda tx: import_issues(tx, ws, some("x-1"), identity=IDENTITY, name="shop"))
    store.transact(lambda tx: end_project(tx, ws, before.project_id, ProjectStatus.ARCHIVED))
    origin = PlanOrigin(identity=IDENTITY, name="shop", creator="user:me")

    with refuses(Refused):
        store.transact(lambda tx: submit_plan(tx, ws, Plan([Task("a", {"shell": "x"})]), origin, issues=some("y-1")))
    with refuses(Refused):
        store.transact(lambda tx: import_issues(tx, ws, some("y-1"), identity=IDENTITY, name="shop"))

    with store.read() as tx:
        assert [issue.id for issue in list_issues(tx, ws, before.project_id)] == ["x-1"]


def test_the_issues_of_one_workspace_are_not_those_of_another(store: Store) -> None:
    ws = workspace(store)
    other = store.transact(lambda tx: projects.get_or_create_workspace(tx, "other"))
    here = store.transact(lambda tx: import_issues(tx, ws, some("x-1"), identity=IDENTITY, name="shop"))
    there = store.transact(lambda tx: import_issues(tx, other, some("y-1"), identity=IDENTITY, name="shop"))

    with store.read() as tx:
        assert [issue.id for issue in list_issues(tx, ws, here.project_id)] == ["x-1"]
        assert list_issues(tx, ws, there.project_id) == []


def test_an_issue_is_closed_by_its_job_unless_its_tracker_changed_it_later() -> None:
    (issue,) = read_issues(b'{"id":"x","title":"t","status":"open","n":1.50,"updated_at":"2026-01-01T00:00:00+02:00"}')
    changed = datetime(2025, 12, 31, 22, tzinfo=UTC)

    closed = close_issue(issue, changed + timedelta(seconds=1))

    assert closed.status == "closed"
    assert closed.record() == {
        "id": "x",
        "title": "t",
        "status": "closed",
        "n": 1.5,
        "updated_at": "2025-12-31T22:00:01Z",
        "closed_at": "2025-12-31T22:00:01Z",
    }
    assert read_issues(closed.raw.encode()) == [closed]
    assert close_issue(issue, changed - timedelta(seconds=1)) is issue
    assert close_issue(closed, changed + timedelta(days=1)) is closed
