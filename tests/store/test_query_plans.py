"""Test that no statement of the daily work reads a big table from end to end: the sent SQL is recorded and explained.

A day's work runs on a store with a long history, and every statement that this sends is explained with its parameters.
So none can be forgotten, and a statement that changes is still checked. Once with fresh statistics, and once with those
of tables that were analysed while they were empty, and then filled.
"""

# ruff: noqa: S608 - the SQL is made of names from the schema and of numbers

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from sqlalchemy import Connection, event, insert, select, text, update

from coordination.base.clock import utc_now
from coordination.domain.fleet.supervisor_status import StatusThresholds
from coordination.domain.jobs.output import StoredChunk
from coordination.domain.plans.plans import BudgetCap, Plan, Task
from coordination.domain.tasks.attempts import Outcome, Usage
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.fleet.tick_supervisor import tick_quiet
from coordination.flows.projects.retain import RetentionAges, retain
from coordination.flows.tasks.change_priority import change_priority
from coordination.flows.tasks.explain_task import explain_task
from coordination.services.attempts.end import close_runs
from coordination.store.engine import Store, open_store
from coordination.store.queries.fleet import idle_supervisors, supervisors, workers
from coordination.store.queries.jobs import output
from coordination.store.queries.money import costs
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import attempts, claims, events, runs, tasks
from coordination.store.reports.projects import overview
from coordination.store.tables import metadata
from coordination.store.tables.fleet.workers import supervisors as supervisor_table
from coordination.store.tables.projects.projects import projects as project_table
from coordination.store.tables.tasks.runs import runs as run_table
from coordination.store.types import db_after
from tests.support.piles import pile_up
from tests.support.world import LEASE, World

pytestmark = [pytest.mark.own_database, pytest.mark.full]

BIG = {
    "runs": 5_000,
    "tasks": 50_000,
    "dependencies": 45_000,
    "attempts": 50_000,
    "events": 150_000,
    "supervisors": 5_000,
}
"""How many rows each has at least; what is smaller may be read from end to end."""

OF_TASKS = {"tasks", "dependencies", "attempts", "events", "output_chunks", "job_history", "costs"}
COSTS = 20_000
READ_NO_FURTHER = re.compile(r"FROM runs JOIN projects .*\sORDER BY runs\.id DESC\s+LIMIT", re.DOTALL)
"""The newest runs of all projects: the index is read from its new end, and the limit is reached at once."""

PARTIAL = {
    index.name
    for table in metadata.tables.values()
    for index in table.indexes
    if index.dialect_options["postgresql"]["where"] is not None
}
"""Indexes that hold only what is open or waits: reading one from end to end reads little."""

NOT_SMALL = {
    "ix_runs_finished",
    "ix_costs_task_id",
    "ix_issues_task_id",
    "ix_tasks_parent_id",
    "ix_supervisors_heartbeat",
}

Sent = dict[str, Any]


@contextmanager
def recorded(store: Store) -> Iterator[Sent]:
    """Record every statement sent meanwhile, each once, with the first parameters that it had."""
    sent: Sent = {}

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:  # noqa: FBT001
        if re.match(r"\s*(SELECT|UPDATE|DELETE|WITH)", statement):
            sent.setdefault(statement, parameters[0] if many else parameters)

    engines = {id(engine): engine for engine in (store._write_engine, store._read_engine)}
    for engine in engines.values():
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        for engine in engines.values():
            event.remove(engine, "before_cursor_execute", note)


def analyse(store: Store) -> None:
    with store.write() as tx:
        tx.execute(text("ANALYZE"))
        if store.dialect != "sqlite":  # from now on they stay as they are
            for name in metadata.tables:
                tx.execute(text(f"ALTER TABLE {name} SET (autovacuum_enabled = false)"))


def copy_costs(tx: Connection) -> None:
    """Insert very many copies of the only cost record."""
    sqlite = tx.dialect.name == "sqlite"
    recursion = f"RECURSIVE x(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM x WHERE i < {COSTS})"
    numbers = recursion if sqlite else f"x AS MATERIALIZED (SELECT generate_series(1, {COSTS}) AS i)"
    columns = ", ".join(column.name for column in metadata.tables["costs"].c if column.name != "id")
    changed = {"occurred_at": ":then", "run_id": "NULL", "task_id": "NULL", "session_id": "'s-' || x.i"}
    of_it = ", ".join(changed.get(column, f"o.{column}") for column in columns.split(", "))
    then = tx.execute(select(db_after(-timedelta(days=50).total_seconds()))).scalar_one()
    tx.execute(
        text(f"INSERT INTO costs (id, {columns}) WITH {numbers} SELECT 'copy-' || x.i, {of_it} FROM x, costs o"),
        {"then": then.isoformat(timespec="microseconds") if sqlite else then},
    )


def copy_supervisors(tx: Connection, project_id: str) -> None:
    """Insert many projects, every second one idle."""
    ids = [f"03000000-0000-7000-8000-{number:012x}" for number in range(BIG["supervisors"])]
    for table, key in ((project_table, "id"), (supervisor_table, "project_id")):
        one = dict(tx.execute(table.select().where(table.c[key] == project_id)).mappings().one())
        copies = [{**one, key: copy} for copy in ids]
        for number, copy in enumerate(copies):
            if table is project_table:
                copy["identity"] = f"copy-{number}"
            elif number % 2:
                copy["ended_at"] = copy["heartbeat_at"]
        tx.execute(insert(table), copies)


@pytest.fixture(params=["fresh", "of the empty tables"])
def piled(store: Store, request: pytest.FixtureRequest) -> World:
    if request.param == "of the empty tables":
        analyse(store)
    world = World(store)
    seed = world.submit("seed").run_id
    world.do("seed", usage=(Usage(model="m", input_tokens=1, output_tokens=1, cost_usd=None),))
    world.submit(*[f"t{n}" for n in range(200)], *[f"c{n} < t{n}" for n in range(60)])
    world.claim(*[f"t{n}" for n in range(20)])
    world.tick()
    with store.write() as tx:
        pile_up(tx, seed, world.ids["seed"], tasks=BIG["tasks"], per_run=10)
        copy_costs(tx)
        copy_supervisors(tx, world.project_id)
        oldest = run_table.c.id == f"02000000-0000-7000-8000-{0:012x}"
        long_ago = db_after(-timedelta(days=100).total_seconds())
        assert tx.execute(update(run_table).where(oldest).values(finished_at=long_ago)).rowcount == 1
    if request.param == "fresh":
        analyse(store)
    return world


def test_there_is_very_much_in_the_store(piled: World) -> None:
    for name, least in (BIG | {"costs": COSTS}).items():
        assert piled.sql(f"SELECT count(*) FROM {name}")[0][0] >= least


def work(world: World) -> None:
    """Run the statements of workers on tasks: all ends that an attempt can have, and their consequences."""
    world.claim("t30", "t31", "t32", "t33", "t34")
    world.write(world.decide("t30"), world.decide("t33", output={"a": 1}))  # release c30, c33
    world.finish("t31", Outcome.FAILED, error="no", retryable=False)  # cancels c31
    world.finish("t32", Outcome.FAILED, error="no")
    world.finish("t34", Outcome.HANDED_BACK, job_started=False)
    world.retry("t31")
    world.cancel("t35")
    world.do("c30")
    world.expire("t2")
    world.tick()
    world.store.transact(lambda tx: change_priority(tx, world.workspace, world.ids["t50"], 7, actor="ann"))
    world.store.transact(lambda tx: close_runs(tx, world.workspace, [world.run_id]))
    world.submit("more", "yet < more")


def spending(world: World) -> None:
    """Run jobs with budgets, and what is printed while they run."""
    capped = [
        Task(f"m{n}", {"shell": "true"}, needs=["m0"] if n > 4 else (), estimate={"usd": "0.01"}) for n in range(8)
    ]
    world.submit_plan(Plan(capped, budget=BudgetCap(Decimal(100), max_unpriced_calls=100)))
    world.claim("m0", "m1", "m2")
    claimed = [world.ids["m0"], world.ids["t5"]]
    with world.store.write() as tx:
        claims.still_enqueued(tx, world.workspace, claimed)
        output.write(tx, world.workspace, [(claimed[0], 1, [StoredChunk(0, 0, 2, (("out", "hi"),))])])
    used = (Usage(model="m", input_tokens=1, output_tokens=1, cost_usd=Decimal("0.01")),)
    world.write(*[world.decide(key, usage=used) for key in ("m0", "m1", "m2")])
    world.claim("m3", "m4", "m5", "m6")


def loop_statements(world: World) -> None:
    """Run the supervisor loop's statements."""
    claimed = [(world.ids["t3"], 1), (world.ids["t4"], 1)]
    with world.store.write() as tx:
        workers.renew(tx, world.worker, claimed, ttl=LEASE)
        workers.note_progress(tx, claimed)
        workers.beat(tx, world.worker, clock=utc_now())
        workers.stop_silent(tx, after=timedelta(hours=1))
        begun = supervisors.begin_due_tick(tx, every=timedelta(0), owner="me", lease=LEASE)
        assert begun is not None
        supervisors.note_error(tx, begun.workspace_id, begun.project_id, owner="me", error="no", rest=LEASE)
    for which in ({"every": timedelta(0)}, {"projects": [world.project_id]}):
        tick_quiet(world.store, enqueue_again_after=timedelta(minutes=1), **which)
    with world.store.write() as tx:
        idle_supervisors.end(tx, [world.project_id], state={})
    with world.store.read() as tx:
        supervisors.list_due(tx, every=timedelta(0))
        projects.names_of(tx, world.workspace, [world.project_id])
        workers.count_live_slots(tx, within=LEASE)
        workers.count_open_attempts(tx)
        workers.count_unclaimed(tx, after=timedelta(0))
        workers.list_expired_leases(tx, world.project_id, silent_after=timedelta(seconds=30))
        workers.workspaces_of_worker(tx, world.worker)
    world.store.transact(lambda tx: rescue_worker(tx, world.worker))


def looking(world: World) -> None:
    """Run the queries of a person's day."""
    workspace, run_id = world.workspace, world.task("t3").run_id
    with world.store.read() as tx:
        overview.overview(tx, workspace, thresholds=StatusThresholds(), live_within=LEASE)
        tasks.ready_of_project(tx, workspace, world.project_id, limit=50)
        runs.get(tx, workspace, run_id)
        runs.list_runs(tx, workspace, limit=20)
        tasks.of_run(tx, workspace, run_id)
        events.tail(tx, workspace, run_id=run_id, after="1.1")
        events.tail(tx, workspace, task_id=world.ids["t3"])
        attempts.of_task(tx, workspace, world.ids["t3"])
        attempts.list_running(tx, workspace, run_id)
        attempts.outputs_of_run(tx, workspace, run_id)
        (call, *_) = costs.calls_to_price(tx, workspace, limit=50)
        costs.calls_to_price(tx, workspace, since=call.occurred_at, also_priced=True, after=call, limit=50)
        costs.corrections(tx, workspace, [call.id])
        costs.read_records(tx, workspace, [call.id])
        for key in ("t60", "c50"):
            task_row = tasks.get(tx, workspace, world.ids[key])
            assert task_row is not None
            explain_task(tx, workspace, task_row, live_within=LEASE)


def clearing_up(world: World, folder: Path) -> None:
    """Run retention, with one run that is old."""
    ages = RetentionAges(runs=timedelta(days=90), workers=timedelta(days=7), costs=timedelta(days=900))
    done = retain(world.store, world.workspace, ages, archive=folder, rest=lambda _seconds: False)
    assert done is not None
    assert done.rows["runs"] == 1


@pytest.mark.timeout(300)
def test_no_statement_of_a_day_reads_a_big_table_from_end_to_end(piled: World, tmp_path: Path) -> None:
    with recorded(piled.store) as sent:
        work(piled)
        spending(piled)
        loop_statements(piled)
        looking(piled)
        clearing_up(piled, tmp_path / "archive")

    assert len(sent) > 60
    wrong = {}
    with piled.store.write() as tx:
        for statement, parameters in sent.items():
            result = read_whole(tx, statement, parameters)
            if result and not READ_NO_FURTHER.search(statement):
                wrong[statement] = result
    assert not wrong, "\n\n".join(f"{sorted(result)} from end to end in:\n{sql}" for sql, result in wrong.items())


@pytest.mark.timeout(300)
def test_no_plan_that_was_kept_from_a_time_of_small_tables_reads_one_from_end_to_end(
    postgres_url: str,
) -> None:
    """Keep plans from small tables: PostgreSQL keeps them for a connection, and a new installation grows fast."""
    store = open_store(postgres_url)
    world = World(store)
    world.submit("seed")
    world.do("seed", usage=(Usage(model="m", input_tokens=1, output_tokens=1, cost_usd=None),))
    world.submit(*[f"t{n}" for n in range(70)], *[f"c{n} < t{n}" for n in range(60)])
    world.claim(*[f"t{n}" for n in range(20)])
    world.tick()
    analyse(store)
    with recorded(store) as sent:
        work(world)
        spending(world)
        loop_statements(world)
        looking(world)

    wrong = {}
    with store.write() as tx:
        tx.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        for statement, parameters in sent.items():
            result = _scanned(kept_plan(tx, statement, parameters)) & OF_TASKS
            if result:
                wrong[statement] = result
    store.close()
    assert len(sent) > 60
    assert not wrong, "\n\n".join(f"{sorted(result)} from end to end in:\n{sql}" for sql, result in wrong.items())


def kept_plan(tx: Connection, statement: str, parameters: Any) -> Any:
    """Return the plan that PostgreSQL keeps for a prepared statement, whatever its parameters are."""
    driver = tx.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    sent = PostgresQuery(Transformer(driver))
    sent.convert(statement, parameters)
    values = f"({', '.join('NULL' for _ in sent.params)})" if sent.params else ""
    for printed in (b"PREPARE kept AS " + sent.query, f"EXPLAIN (FORMAT JSON) EXECUTE kept {values}".encode()):
        answer = driver.pgconn.exec_(printed)
        assert answer.status in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}, answer.error_message
    driver.pgconn.exec_(b"DEALLOCATE kept")
    return json.loads(answer.get_value(0, 0) or b"")[0]["Plan"]


def test_a_statement_that_does_is_noticed(piled: World) -> None:
    """Check the check itself: without an index, through an index from end to end, and correct statements."""
    with piled.store.write() as tx:
        assert read_whole(tx, "SELECT count(*) FROM tasks WHERE title = 'x'", {}) == {"tasks"}
        assert read_whole(tx, "SELECT id FROM tasks AS other ORDER BY id", {}) == {"tasks"}
        assert read_whole(tx, f"SELECT title FROM tasks WHERE id = '{piled.run_id}'", {}) == set()


def read_whole(tx: Connection, statement: str, parameters: Any) -> set[str]:
    """Return the big tables that this statement reads from end to end, directly or through an index."""
    cursor = tx.connection.cursor()
    if tx.dialect.name == "sqlite":
        names = {alias: table for table, alias in re.findall(r"(\w+) AS (\w+)", statement)}
        result = set()
        for *_, step in cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall():
            scan = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step)
            if scan and not _is_small(scan[2]):
                result.add(names.get(scan[1], scan[1]))
        return result & {*BIG, "costs"}
    cursor.execute("EXPLAIN (FORMAT JSON) " + statement, parameters)
    (plan,) = cursor.fetchone()
    result = plan if isinstance(plan, list) else json.loads(plan)
    return _scanned(result[0]["Plan"]) & {*BIG, "costs"}


def _scanned(node: dict[str, Any]) -> set[str]:
    result = set().union(*(_scanned(below) for below in node.get("Plans", ())))
    table = node.get("Relation Name")
    if node["Node Type"] == "Seq Scan":
        result.add(table)
    if node["Node Type"] in {"Index Scan", "Index Only Scan"} and "Index Cond" not in node:
        result |= set() if _is_small(node["Index Name"]) else {table}
    return result


def _is_small(index: str | None) -> bool:
    return index in PARTIAL - NOT_SMALL
