"""Test imports of costs: once by id, to the project that they name if it exists, otherwise to the given one."""

from __future__ import annotations

import json

from coordination.base.ids import new_id
from coordination.flows.money.import_costs import import_costs
from coordination.services.projects.projects import resolve
from coordination.store.engine import Store
from coordination.store.queries.money import costs
from coordination.store.queries.projects import projects
from tests.support.cost_files import read_costs


def record(number: int, project_id: str | None = None) -> bytes:
    usage = {"model": "m", "input_tokens": 1, "output_tokens": 1, "cost_usd": 0.1, "timestamp": "2026-11-20T00:00:00Z"}
    own = {"coordination": {"project_id": project_id}} if project_id else {}
    return json.dumps({"id": f"c{number}", "usage": usage, "session_id": "s", **own}).encode()


def test_records_go_to_the_project_they_name_if_it_is_here_and_are_stored_once(store: Store) -> None:
    ws = store.transact(lambda tx: projects.get_or_create_workspace(tx, "default"))
    owner = store.transact(lambda tx: resolve(tx, ws, identity="example.org/a/owner", name="owner", path=None))
    named = store.transact(lambda tx: resolve(tx, ws, identity="example.org/a/named", name="named", path=None))
    records = list(read_costs([record(1), record(2, named.id), record(3, new_id())]))

    first = store.transact(lambda tx: import_costs(tx, ws, records, project_id=owner.id))
    second = store.transact(lambda tx: import_costs(tx, ws, records, project_id=owner.id))

    assert (len(first), len(second)) == (3, 0)
    with store.read() as tx:
        stored = {one.id: one.project_id for one in costs.each(tx, ws)}
        assert costs.total(tx, ws, project_id=owner.id)[1] == 2
    assert stored == {"c1": owner.id, "c2": named.id, "c3": owner.id}
