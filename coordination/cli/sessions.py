"""``coord sessions …``: what groups costs over runs."""

from __future__ import annotations

from typing import Annotated

import typer

from coordination.base.wording import excerpt, plural
from coordination.cli.options import AsJson, Limit, connected, print_json


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Sessions: they group costs over runs.")
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="sessions")


def list_(
    *,
    project: Annotated[
        str | None, typer.Option("--project", "-p", metavar="NAME", help="Only of this project.")
    ] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """The sessions, the most recently active first."""
    from coordination.cli.tables import show as table
    from coordination.store.queries.tasks import runs

    with connected() as co:
        project_id = co.project(project).id if project else None
        with co.runtime.store.read() as tx:
            found = runs.list_sessions(tx, co.runtime.workspace_id, project_id=project_id, limit=limit)
    if as_json:
        print_json({"sessions": found})
        return
    table(
        ["id", "purpose", "target", "agent", "last activity"],
        [(one.id, one.purpose, one.target, one.agent, one.last_activity_at) for one in found],
    )


def show(
    session: Annotated[str, typer.Argument(metavar="ID", help="The session's id.")],
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """One session with its latest cost records."""
    from coordination.base.errors import NotFound
    from coordination.base.ids import is_id
    from coordination.base.money import show_usd
    from coordination.cli.costs.records import record_table
    from coordination.cli.tables import fields
    from coordination.store.queries.money import costs
    from coordination.store.queries.tasks import runs

    with connected() as co, co.runtime.store.read() as tx:
        workspace_id = co.runtime.workspace_id
        found = runs.get_session(tx, workspace_id, session) if is_id(session) else None
        usd, calls, unpriced = costs.total(tx, workspace_id, session_id=session)
        records = costs.newest(tx, workspace_id, session_id=session, limit=limit)
    if found is None and not calls:  # imported costs name sessions that only another program knew
        raise NotFound(f"There is no session {excerpt(session)}", hint="See: coord sessions list")
    if as_json:
        print_json(
            {
                "id": session,
                "session": found,
                "cost_usd": usd,
                "calls": calls,
                "unpriced_calls": unpriced,
                "costs": records,
            }
        )
        return
    fields(
        [
            ("id", session),
            ("purpose", found.purpose if found else "known only by its costs"),
            ("agent", found.agent if found else None),
            ("last activity", found.last_activity_at if found else None),
            (
                "cost",
                f"{show_usd(usd)} in {plural(calls, 'call')}" + (f", {unpriced} of unknown price" if unpriced else ""),
            ),
        ]
    )
    print()
    record_table(records)
