"""The hot statements stay on their indexes, however much piled up: the real SQL of the real functions, explained."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from coordination.flows.claim_tasks import claim_tasks
from coordination.store.engine import Store
from coordination.store.queries import attempts, dependencies, events, fleet, ready, tasks
from tests.support.world import LEASE, World, watched

HALF = 25_000  # as many parents as children have finished
BIG = ("tasks", "dependencies", "attempts", "task_events")


def pile_up(world: World) -> None:
    """Finished tasks with attempts, edges and events, copied in the database from one that really ran."""
    world.submit("seed", "after < seed")
    world.do("seed", "after")
    sqlite = world.store.dialect == "sqlite"
    numbers = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {HALF}) "  # noqa: S608 - numbers
        if sqlite
        else f"WITH n AS (SELECT generate_series(1, {HALF}) AS i) "
    )
    made = {}
    for kind, digit in (("seed", 1), ("after", 2)):
        half = (
            f"printf('0000{digit:04d}-0000-7000-8000-%012x', n.i)"
            if sqlite
            else f"('0000{digit:04d}-0000-7000-8000-' || lpad(to_hex(n.i), 12, '0'))::uuid"
        )
        made[world.ids[kind]] = half
    copies = {
        "tasks": ({"id"}, "key"),
        "attempts": ({"task_id"}, None),
        "task_events": ({"task_id"}, None),
    }
    with world.store.write() as tx:
        from coordination.store.tables import metadata

        for name, (ids, key) in copies.items():
            columns = [column.name for column in metadata.tables[name].c if column.name != "seq"]
            for original, half in made.items():
                chosen = [
                    half if column in ids else f"o.{column} || n.i" if column == key else f"o.{column}"
                    for column in columns
                ]
                first = "id" if name == "tasks" else "task_id"
                tx.execute(
                    text(
                        f"INSERT INTO {name} ({', '.join(columns)}) {numbers} SELECT {', '.join(chosen)} "  # noqa: S608
                        f"FROM {name} o, n WHERE o.{first} = '{original}'"
                    )
                )
        parent, child = made.values()
        tx.execute(
            text(
                "INSERT INTO dependencies (parent_id, child_id, workspace_id, kind, satisfied_at) "  # noqa: S608
                f"{numbers} SELECT {parent}, {child}, o.workspace_id, o.kind, o.satisfied_at FROM dependencies o, n"
            )
        )


@pytest.fixture
def piled(store: Store) -> World:
    world = World(store)
    pile_up(world)
    world.submit(*[f"t{n}" for n in range(1_000)], *[f"c{n} < t{n}" for n in range(50)])
    world.claim(*[f"t{n}" for n in range(20)])
    world.tick()
    if store.dialect == "sqlite":
        world.sql("ANALYZE")
    else:
        with store._write_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
    return world


def plan_of(tx: Any, statement: str, parameters: Any) -> str:
    explain = "EXPLAIN QUERY PLAN " if tx.dialect.name == "sqlite" else "EXPLAIN "
    rows = tx.connection.cursor().execute(explain + statement, parameters).fetchall()
    return "\n".join(str(row[-1]) for row in rows)


def scanned(plan: str) -> set[str]:
    """The big tables that a plan reads from end to end."""
    found = re.findall(r"Seq Scan on (\w+)", plan) + re.findall(r"\bSCAN (\w+)(?! USING (?:COVERING )?INDEX)", plan)
    found += re.findall(r"SCAN (\w+) USING (?:COVERING )?INDEX (?!ix_tasks_ready|ix_tasks_rung|ix_attempts_unf)", plan)
    return set(found) & set(BIG)


Call = Callable[[Any, World], Any]
HOT: dict[str, tuple[Call, tuple[str, ...]]] = {
    "claim": (
        lambda tx, w: claim_tasks(tx, w.workspace, [w.ids["t30"], w.ids["t31"]], worker_id=w.worker, lease=LEASE),
        ("pk_tasks|tasks_pkey|autoindex_tasks",),
    ),
    "next_unrung": (
        lambda tx, w: ready.next_unrung(tx, w.workspace, w.project_id, room=64),
        ("ix_tasks_ready",),
    ),
    "count_rung": (lambda tx, w: ready.count_rung(tx, w.workspace, w.project_id), ("ix_tasks_r(ung|eady)",)),
    "rung_before": (
        lambda tx, w: ready.rung_before(tx, w.workspace, w.project_id, age=timedelta(0), limit=64),
        ("ix_tasks_r(ung|eady)",),
    ),
    "lift_due": (lambda tx, w: ready.lift_due(tx, w.workspace, w.project_id), ("ix_tasks_time",)),
    "satisfy": (
        lambda tx, w: dependencies.satisfy(tx, w.workspace, [w.ids["t1"]]),
        ("pk_dependencies|dependencies_pkey|PRIMARY KEY",),
    ),
    "less_pending": (
        lambda tx, w: ready.less_pending(tx, w.workspace, {w.ids["c40"]: 1, w.ids["c41"]: 1}),
        ("pk_tasks|tasks_pkey|autoindex_tasks",),
    ),
    "outputs_for": (
        lambda tx, w: dependencies.outputs_for(tx, w.workspace, [w.ids["c1"]]),
        ("ix_dependencies_child_id",),
    ),
    "lock_expired": (
        lambda tx, w: attempts.lock_expired(tx, w.workspace, w.project_id),
        ("ix_attempts_(unfinished|worker)",),  # both hold only what runs
    ),
    "renew": (
        lambda tx, w: fleet.renew(tx, w.worker, [(w.ids["t2"], 1), (w.ids["t3"], 1)], ttl=LEASE),
        ("ix_attempts_worker|ix_attempts_unfinished|pk_attempts|attempts_pkey|autoindex_attempts",),
    ),
    "complete": (
        lambda tx, w: tasks.complete(tx, w.workspace, [(w.ids["t2"], 1), (w.ids["t3"], 1)]),
        ("pk_tasks|tasks_pkey|autoindex_tasks",),
    ),
    "tail of a run": (
        lambda tx, w: events.tail(tx, w.workspace, run_id=w.run_id, after="1.1"),
        ("ix_task_events_run",),
    ),
    "tail of a task": (
        lambda tx, w: events.tail(tx, w.workspace, task_id=w.ids["t2"]),
        ("ix_task_events_task",),
    ),
    "open_states": (lambda tx, w: tasks.open_states(tx, w.workspace, w.run_id), ("ix_tasks_run_state",)),
}


@pytest.mark.timeout(300)
def test_no_hot_statement_reads_a_big_table_from_end_to_end(piled: World) -> None:
    wrong = {}
    for name, (call, indexes) in HOT.items():
        with piled.store.write() as tx:
            with watched(piled.store) as seen:
                call(tx, piled)
            plans = [
                plan_of(tx, statement, parameters)
                for statement, parameters in seen
                if re.match(r"\s*(SELECT|UPDATE|DELETE)", statement) and not isinstance(parameters, list)
            ]
            tx.rollback()
        assert plans, name
        ends = set().union(*map(scanned, plans))
        missing = [index for index in indexes if not any(re.search(index, plan) for plan in plans)]
        if ends or missing:
            wrong[name] = (ends, missing, plans)

    assert not wrong, "\n".join(
        f"{name}: scans {ends}, lacks {gone}\n{plans}" for name, (ends, gone, plans) in wrong.items()
    )
