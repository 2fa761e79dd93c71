"""``coord sessions …``: list and show sessions, which group costs over runs."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from coordination.base.errors import NotFound
from coordination.base.ids import is_id
from coordination.base.money import show_usd
from coordination.base.wording import excerpt, plural
from coordination.cli.money.costs import record_table
from coordination.cli.options import AsJson, Limit, OfProject, open_connection, print_json
from coordination.cli.tables import fields
from coordination.cli.tables import show as table
from coordination.views import projects as views
from coordination.views.fields import listing


def list_(*, project: OfProject = None, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List sessions, the most recently active first."""
    from coordination.store.queries.tasks import runs

    with open_connection() as co:
        project_id = co.project(project).id if project else None
        records = co.runtime.read(runs.list_sessions, project_id=project_id, limit=limit)
    if as_json:
        print_json(listing("sessions", views.session, records))
        return
    table(
        ["id", "purpose", "target", "agent", "last activity"],
        [(record.id, record.purpose, record.target, record.agent, record.last_activity_at) for record in records],
    )


def show(
    session: Annotated[str, Argument(metavar="ID", help="The session's id.")],
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Show a session with its latest cost records."""
    from coordination.store.queries.money import costs
    from coordination.store.queries.tasks import runs

    with open_connection() as co, co.runtime.store.read() as tx:
        workspace_id = co.runtime.workspace_id
        record = runs.get_session(tx, workspace_id, session) if is_id(session) else None
        usd, calls, unpriced = costs.total(tx, workspace_id, session_id=session)
        records = costs.newest(tx, workspace_id, session_id=session, limit=limit)
    if record is None and not calls:  # imported costs may name sessions of another program
        raise NotFound(f"There is no session {excerpt(session)}", hint="See: coord sessions list")
    if as_json:
        print_json(
            views.session_details(session, record, cost_usd=usd, calls=calls, unpriced_calls=unpriced, costs=records)
        )
        return
    fields(
        [
            ("id", session),
            ("purpose", record.purpose if record else "known only from costs"),
            ("agent", record.agent if record else None),
            ("last activity", record.last_activity_at if record else None),
            (
                "cost",
                f"{show_usd(usd)} in {plural(calls, 'call')}" + (f", {unpriced} of unknown price" if unpriced else ""),
            ),
        ]
    )
    print()
    record_table(records)
