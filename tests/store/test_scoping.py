"""Test that a workspace sees and changes its own rows only: every function of the queries is found automatically."""

# ruff: noqa: ARG005, E501 - a table of arguments

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import RowMapping, select, text

from coordination.base.ids import new_id
from coordination.domain.agents.agents import Profile
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.fleet.supervisor_status import StatusThresholds
from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.merges import Merge
from coordination.domain.jobs.output import StoredChunk
from coordination.domain.money.budgets import Amount, Budget, BudgetPeriod, BudgetScope, BudgetUse, Reservation
from coordination.domain.money.cost_totals import CostTotal, TotalKey
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import JobSample
from coordination.domain.money.pricing import Price, PriceOverride, Rate
from coordination.domain.plans.plans import Concurrency
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.retry import Complete
from coordination.domain.tasks.tasks import BlockReason, CancelCause, TaskState
from coordination.services.agents import agents as agent_service
from coordination.services.money import ledger
from coordination.services.money import prices as price_service
from coordination.services.projects import projects as project_service
from coordination.store import queries, reports
from coordination.store.queries.agents import agents as agent_queries
from coordination.store.queries.fleet import host_leases as lease_queries
from coordination.store.queries.fleet.host_leases import LeaseKind
from coordination.store.queries.forecast import job_history as history_queries
from coordination.store.queries.jobs import artifacts as artifact_queries
from coordination.store.queries.jobs import merges as merge_queries
from coordination.store.queries.jobs import output as output_queries
from coordination.store.queries.money import budgets
from coordination.store.queries.money import budgets as budget_queries
from coordination.store.queries.projects import stops as stop_queries
from coordination.store.queries.tasks import questions as question_queries
from coordination.store.queries.tasks import tasks as task_queries
from coordination.store.reports.fleet import health
from coordination.store.tables import metadata
from tests.support.world import World

WITHOUT_WORKSPACE = {
    "projects.find_workspace",  # finds workspaces
    "projects.get_or_create_workspace",
    "projects.workspace_ids",
    "events.parse_cursor",  # no statements
    "stops.claiming_transactions",  # transactions on the database
    "queueing.find_queue_blockers",  # of a task that its caller has read
    "task_steps.steps_after_end",
    "predicates.has_setting",  # conditions
    "idle_supervisors.has",
    "idle_supervisors.has_blocked",
    "slots.exclude_full",
    "tasks.counter_values",
    "tasks.is_limit_reached",
    "health.silent_workers",  # of the fleet, which serves all workspaces
    "health.skewed_clocks",
    "health.clock_finding",
    "supervisors.list_due",  # whose turn it is, of all workspaces
    "supervisors.is_overdue",
    "supervisors.begin_due_tick",
    "host_leases.names_on",  # of a machine, which serves all workspaces
    "host_leases.delete_ended",
    "host_leases.list_ended",
    "host_leases.delete_named",
    "idle_supervisors.lock",  # of all workspaces, too
    "idle_supervisors.end",
    "idle_supervisors.renew",
    "tasks.task_of",
    "runs.session_of",
    "projects.project_of",
    "costs.record_of",
    "billed_attempts.billed_attempts",  # of what a worker runs, of all workspaces
    "principals.name_of",
    "principals.text_of",
    "attempts.insert_many",  # rows that carry their workspace
    "dependencies.insert_many",
    "dependencies.row_of",
}


OF_WORKERS = {"workers.list_live_for", "workers.workspace_name"}
"""The functions of this module that concern one workspace; workers serve all."""


def functions(package) -> Iterator[tuple[str, Callable[..., Any]]]:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        loaded = importlib.import_module(module.name)
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            if not name.startswith("_") and function.__module__ == loaded.__name__:
                yield f"{module.name.rpartition('.')[2]}.{name}", function


SCOPED = {
    name: function
    for package in (queries, reports)
    for name, function in functions(package)
    if (not name.startswith("workers.") or name in OF_WORKERS)
    and name not in WITHOUT_WORKSPACE
    and name != "overview.list_live_workers"
}


def test_there_are_many_functions_to_walk() -> None:
    assert len(SCOPED) > 70
    names = {name for package in (queries, reports) for name, _ in functions(package)}
    assert names >= WITHOUT_WORKSPACE, "remove from the list what is gone"


@pytest.mark.parametrize("name", SCOPED)
def test_a_query_takes_its_workspace_second(name: str) -> None:
    parameters = list(inspect.signature(SCOPED[name]).parameters)

    assert parameters[:2] == ["tx", "workspace_id"]


class Full:
    """A workspace with rows in every table."""

    def __init__(self, store, name: str) -> None:
        world = World(store, name)
        world.submit(
            "done",
            "lost",
            "next < done",
            "held < lost",
            "idle",
            "asks",
            concurrency=Concurrency(project=9),
            tasks={"lost": {"concurrency_key": "k", "max_attempts": 1}, "idle": {"agent": "bo", "priority": 2}},
        )
        world.do("done", output={"of": name})
        world.claim("lost", lease=timedelta(seconds=-60))
        with store.write() as tx:
            artifact_queries.add(tx, world.workspace, world.ids["lost"], 1, [Artifact("x", 1, "0", f"of:{name}")])
            leased = {"host": "here", "kind": LeaseKind.PORT, "name": f"1 of {name}"}
            lease_queries.add(tx, world.workspace, world.ids["lost"], 1, **leased)
            merge = Merge(1, "coord/x/run", "0", "1", {"output": f"of:{name}"})
            merge_queries.put(tx, world.workspace, world.ids["lost"], merge)
            output_queries.write(
                tx, world.workspace, [(world.ids["lost"], 1, [StoredChunk(0, 0, 1, (("out", name),))])]
            )
        world.sql(
            "UPDATE tasks SET enqueued_at = created_at WHERE key = 'next' AND workspace_id = :ws", ws=world.workspace
        )
        store.transact(lambda tx: agent_service.create(tx, world.workspace, Profile("bo", default=True)))
        record = _cost(f"cost-{name}", project_id=world.project_id, run_id=world.run_id, task_id=world.ids["done"])
        settled = replace(record, id=f"{record.id}~priced", corrects=record.id, settles=True)
        rates = {"input": "1", "output": "2"}
        with store.write() as tx:
            asks = {"id": world.ids["asks"]}
            tx.execute(text("UPDATE tasks SET state = 'blocked', reasons = 128 WHERE id = :id"), asks)
            question_queries.insert_question(tx, world.workspace, _question(world))
            history_queries.learn(tx, world.workspace, world.project_id, {"shell": [_SAMPLE]})
            ledger.append_records(tx, world.workspace, [record, settled])
            budget_queries.put(tx, world.workspace, _budget(world))
            budgets.lock_uses(tx, world.workspace, [(world.run_id, "")], create=[(world.run_id, "")])
            for place in (None, world.project_id):
                price_service.set_price(tx, world.workspace, "m", rates, project_id=place, actor=f"of {name}")
            for place in (None, world.project_id):
                stop = {"actor": name, "reason": f"of {name}", "at_once": False}
                stop_queries.add(tx, world.workspace, place, **stop)
            stop_queries.end(tx, world.workspace, stop_queries.list_active(tx, world.workspace)[1].id, actor=name)
            project = project_service.find(tx, world.workspace, "shop")
            project_service.rename_remote(tx, world.workspace, project, "example.org/other/name")
        self.world = world


def _cost(name: str, **fields: Any) -> CostRecord:
    cost_fields = {
        "session_id": None, "attempt": 1, "agent": "bo", "model": "m", "input_tokens": 1, "output_tokens": 1,
        "cached_input_tokens": 0, "total_tokens": 2, "cost_usd": Decimal(1), "stale": False,
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return CostRecord(**{"id": name, "run_id": None, "task_id": None, **cost_fields, **fields})


def everything(world: World) -> dict[str, list[Any]]:
    """Return all rows of the workspace, table by table."""
    by_table = {}
    with world.store.read() as tx:
        for name, table in metadata.tables.items():
            if "workspace_id" in table.c:
                rows = tx.execute(select(table).where(table.c.workspace_id == world.workspace)).mappings()
                by_table[name] = sorted(repr(sorted(row.items())) for row in rows)
    return by_table


def arguments(name: str, function: Callable[..., Any], world: World) -> dict[str, Any]:
    """Return arguments that name rows of *world*: by the names of the parameters, or set by hand."""
    ids, special = world.ids, BY_HAND.get(name, {})
    with world.store.read() as tx:
        session = tx.execute(
            select(metadata.tables["sessions"].c.id).where(
                metadata.tables["sessions"].c.workspace_id == world.workspace
            )
        ).scalar()
    some: dict[str, Any] = {
        "task_id": ids["lost"], "child_id": ids["next"], "parent_id": ids["done"], "run_id": world.run_id, "project_id": world.project_id,
        "session_id": session, "worker_id": world.worker, "former_id": world.worker, "ids": list(ids.values()), "parents": [ids["done"], ids["lost"]],
        "children": [ids["next"], ids["held"]], "run_ids": [world.run_id], "project_ids": [world.project_id], "session_ids": [session],
        "name": "shop", "identity": world.project, "keys": [(ids["lost"], 1)], "held": [(ids["lost"], 1)], "attempt": 1, "number": 1, "owner": "me",
        "limit": 50, "lifetime": timedelta(hours=1), "lease": timedelta(hours=1), "wait": timedelta(0), "window": 5,
        "counts": task_queries.CounterChanges(), "reason": BlockReason.DEPENDENCIES, "error": "x", "cause": CancelCause.PERSON,
        "state": {"x": 1}, "details": {"x": 1}, "submissions": 1, "priority": 77, "pending": 0, "agent": None,
        "pgid": 1, "pg_start": 1.0, "room": 50, "satisfied": {ids["next"]: 1, ids["held"]: 1}, "age": timedelta(0),
        "rest": timedelta(0), "caps": {"project": 1}, "session_key": "other", "live_within": timedelta(hours=1), "within": timedelta(hours=1), "by": "project",
        "thresholds": StatusThresholds(), "task": _stored(world, "next"), "key": "next", "here": None, "actor": "me", "most": 50, "needs_worker": False, "slot": "project", "reasons": BlockReason.NOT_BEFORE, "held_if": (),
        "ends": [EndedAttempt(ids["lost"], 1, new_id(), "lost", AttemptEnd(Outcome.COMPLETED), Complete())],
    }  # fmt: skip
    values = {}
    for parameter in list(inspect.signature(function).parameters.values())[2:]:
        if parameter.name in special:
            values[parameter.name] = special[parameter.name](world)
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD and parameter.default is inspect.Parameter.empty:
            values[parameter.name] = some[parameter.name]
    return {**values, **{key: make(world) for key, make in special.items() if key not in values}}


def _stored(world: World, key: str) -> Any:
    with world.store.read() as tx:
        return task_queries.get(tx, world.workspace, world.ids[key])


def _budget(world: World, **fields: Any) -> Budget:
    whose = {"scope": BudgetScope.RUN, "subject": world.run_id, "project_id": world.project_id, "run_id": world.run_id}
    return Budget(**{"id": world.run_id, "usd": Decimal(9), **whose, **fields})


def _agent(world: World) -> str:
    with world.store.read() as tx:
        (result,) = agent_queries.list_all(tx, world.workspace)
    return result.id


def _stop(world: World) -> str:
    with world.store.read() as tx:
        return stop_queries.list_active(tx, world.workspace)[0].id


def _question(world: World) -> dict[str, Any]:
    return {
        "project_id": world.project_id, "run_id": world.run_id, "task_id": world.ids["asks"], "attempt": 1,
        "question": f"{world.workspace}?",
    }  # fmt: skip


def _asked(world: World) -> str:
    with world.store.read() as tx:
        (result,) = question_queries.list_unanswered(tx, world.workspace)
    return result.id


def _new_tasks(world: World) -> list[dict[str, Any]]:
    """Return a task like one of the world, under a key of its own."""
    with world.store.read() as tx:
        row = dict(
            tx.execute(select(metadata.tables["tasks"]).where(metadata.tables["tasks"].c.id == world.ids["next"]))
            .mappings()
            .one()
        )
    return [{**row, "id": new_id(), "key": "another", "agent": "bo"}]


def _closing(world: World) -> dict[str, Any]:
    return {
        "task": world.ids["lost"], "number": 1, "outcome": "failed", "exit_code": 1, "error": "x", "output": None,
        "log": None, "began": None,
    }  # fmt: skip


_SAMPLE = JobSample(Decimal(1), 1, 0, timedelta(minutes=1), completed=True)
_AT_ONCE = health.HealthThresholds(stuck=timedelta(0), lease=timedelta(0), late=timedelta(0))
BY_HAND: dict[str, dict[str, Callable[[World], Any]]] = {
    "agents.add": {"profile": lambda world: Profile("new")},
    "agents.rename_authorities": {"agent_id": _agent, "name": lambda world: "other"},
    "principals.agent_ids": {"names": lambda world: ["bo", "new one"]},
    "principals.find_agent_ids": {"names": lambda world: ["bo"]},
    "principals.names_of": {"ids": lambda world: [_agent(world)]},
    "principals.rename_agent": {"agent_id": _agent, "name": lambda world: "other"},
    "principals.id_of": {"actor": lambda world: "user:new"},
    "principals.id_or_none": {"actor": lambda world: "user:newer"},
    "principals.add_owner": {"actor": lambda world: "user:owner"},
    "agents.change": {"agent_id": _agent, "profile": lambda world: Profile("bo", type="changed")},
    "agents.remove": {"agent_id": _agent},
    "agents.find": {"name": lambda world: "bo"},
    "agents.totals": {"names": lambda world: ["bo"]},
    "assignments.assign_agent": {"task_id": lambda world: world.ids["next"], "agent": lambda world: "bo", "kind": lambda world: "shell:x", "authority": lambda world: None,
                         "work": lambda world: {"shell": "x"}, "options": lambda world: {}, "carried": lambda world: {}},
    "assignments.assign_person": {"task_id": lambda world: world.ids["next"], "person": lambda world: "ann",
                                    "reasons": lambda world: BlockReason.DEPENDENCIES, "options": lambda world: {}},
    "artifacts.add": {"files": lambda world: [Artifact("y", 1, "0", "new")]},
    "merges.put": {"merge": lambda world: Merge(7, "coord/x/run", "0", "1", {})},
    "merges.unfinished": {"before": lambda world: 2},
    "attempts.close_many": {"rows": lambda world: [_closing(world)]},
    "attempts.close_one": {"row": _closing},
    "outdated.wait_again": {"fences": lambda world: [(world.ids["lost"], 1)]},
    "attempts.unfinished": {"fences": lambda world: [(world.ids["lost"], 1)]},
    "attempts.lock": {"fences": lambda world: [(world.ids["lost"], 1)]},
    "attempts.of_task": {"task_id": lambda world: world.ids["done"]},
    "claims.claim_chosen": {"uses": lambda world: {world.ids["next"]: {"slots": []}}},
    "budgets.find_applicable": {"subjects": lambda world: [world.run_id]},
    "budgets.lock_budget": {"scope": lambda world: BudgetScope.RUN, "subject": lambda world: world.run_id,
                     "period": lambda world: BudgetPeriod.TOTAL},
    "budgets.get": {"scope": lambda world: BudgetScope.RUN, "subject": lambda world: world.run_id,
                    "period": lambda world: BudgetPeriod.TOTAL},
    "budgets.of_subject": {"scope": lambda world: BudgetScope.RUN, "subject": lambda world: world.run_id},
    "budgets.read_names": {"records": lambda world: [_budget(world)]},
    "budgets.find_waiting_tasks": {"task_ids": lambda world: list(world.ids.values())},
    "budgets.put": {"budget": lambda world: _budget(world, id=new_id(), usd=Decimal(10))},
    "budgets.insert_new": {"new": lambda world: [_budget(world, id=new_id(), period=BudgetPeriod.DAY)]},
    "budgets.remove": {"budget_id": lambda world: world.run_id},
    "budgets.read_uses": {"keys": lambda world: [(world.run_id, "")]},
    "budgets.lock_available_uses": {"keys": lambda world: [(world.run_id, "")]},
    "budgets.lock_uses": {"keys": lambda world: [(world.run_id, "x")], "create": lambda world: [(world.run_id, "x")]},
    "budgets.write_uses": {"changed": lambda world: [BudgetUse(world.run_id, "", Amount(Decimal(7)))]},
    "budgets.lock_reservations": {"fences": lambda world: [(world.ids["lost"], 1)]},
    "budgets.lock_running_attempts": {"scope": lambda world: BudgetScope.RUN, "subject": lambda world: world.run_id},
    "budgets.write_reservations": {"reserved": lambda world: {(world.ids["lost"], 1): Reservation(Amount(Decimal(7)))}},
    "budgets.count_starts": {"scope": lambda world: BudgetScope.RUN, "subject": lambda world: world.run_id, "since": lambda _: None},
    "budgets.sum_spent": {"scope": lambda world: BudgetScope.RUN, "subject": lambda world: world.run_id, "since": lambda _: None},
    "costs.append": {"records": lambda world: [_cost("new", project_id=world.project_id)]},
    "costs.calls_to_price": {"also_priced": lambda world: True},
    "costs.corrections": {"corrected": lambda world: [f"cost-{name}" for name in ("mine", "theirs")]},
    "costs.read_records": {"ids": lambda world: [f"cost-{name}" for name in ("mine", "theirs")]},
    "prices.put": {"override": lambda world: PriceOverride("m", Price(Rate(Decimal(9)), Rate(Decimal(9))))},
    "prices.remove": {"model": lambda world: "m", "project_id": lambda world: world.project_id},
    "costs.read_billed": {"ids": lambda world: [f"cost-{name}" for name in ("mine", "theirs")]},
    "rollups.days": {"moments": lambda world: [datetime(2026, 1, 1, tzinfo=UTC)]},
    "rollups.add": {"sums": lambda world: MappingProxyType({TotalKey("model", "day", "2026-01-02", "n", ""): CostTotal(calls=1)}), "shard": lambda world: 0},
    "rollups.set_zone": {"name": lambda world: "Asia/Tokyo"},
    "rollups.merge_shards": {"before": lambda world: "2027-01-01"},
    "costs.each": {"run_id": lambda world: world.run_id},
    "costs.newest": {"run_id": lambda world: world.run_id},
    "costs.total": {"run_id": lambda world: world.run_id},
    "host_leases.add": {"host": lambda world: "here", "kind": lambda world: LeaseKind.PORT, "name": lambda world: "99"},
    "dependencies.add_waits": {"parents": lambda world: [world.ids["idle"]], "completed": lambda world: []},
    "events.append": {"new": lambda world: [NewEvent(EventType.PROGRESS, world.project_id)]},
    "events.append_aged": {"new": lambda world: [NewEvent(EventType.PROGRESS, world.project_id)]},
    "events.append_bulk": {
        "new": lambda world: [NewEvent(EventType.PROGRESS, world.project_id)], "now": lambda world: datetime.now(UTC), "txid": lambda world: 1
    },
    "events.append_unblocked": {
        "lifted": lambda world: [{"id": world.ids["held"], "run_id": world.run_id, "state": TaskState.QUEUED}]
    },
    "events.tail": {"run_id": lambda world: world.run_id},
    "output.write": {"outputs": lambda world: [(world.ids["lost"], 1, [StoredChunk(0, 0, 99, (("out", "more"),))])]},
    "projects.change": {"description": lambda world: "changed"},
    "projects.get_or_create": {"row": lambda world: {"id": new_id(), "identity": world.project, "name": "x", "status": "planning",
                                            "settings": {}, "budgets": {}, "model_restrictions": {}, "metadata": {}}},
    "projects.change_status": {"sources": lambda world: frozenset(ProjectStatus), "target": lambda world: ProjectStatus.ON_HOLD},
    "projects.add_alias": {"identity": lambda world: "example.org/third/name"},
    "runs.insert_run": {"row": lambda world: {
        "id": new_id(), "project_id": world.project_id, "name": "x", "creator": "x", "python_path": [], "metadata": {},
        "session_id": arguments("x", lambda tx, workspace_id, session_id: None, world)["session_id"]}},
    "runs.insert_session": {"row": lambda world: {"id": new_id(), "project_id": world.project_id, "purpose": "x",
                                                  "target": "main"}},
    "runs.add_metadata": {"values": lambda world: {"noted": True}},
    "runs.list_runs": {"project_id": lambda world: world.project_id},
    "runs.list_sessions": {"project_id": lambda world: world.project_id},
    "slots.give_back": {"names": lambda world: ["project"]},
    "slots.take": {"counts": lambda world: {"project": 1}},
    "slots.drop": {"name": lambda world: "project"},
    "slots.drop_merge_limits": {"keep": lambda world: []},
    "job_durations.recent_durations": {"kinds": lambda world: ["shell:true"]},
    "job_history.learn": {"new_samples": lambda world: {"shell": [_SAMPLE], f"new of {world.workspace}": [_SAMPLE]}},
    "stops.add": {"reason": lambda _: "so", "at_once": lambda _: False},
    "stops.set_columns": {"stop_id": _stop, "at_once": lambda _: True},
    "stops.end": {"stop_id": _stop},
    "stops.list_open_attempts": {"silent_after": lambda _: timedelta(0)},
    "stops.get_attempts": {"keys": lambda world: [(world.ids["lost"], 1)], "silent_after": lambda _: timedelta(0)},
    "stops.count_old": {"age": lambda _: timedelta(days=-1)},
    "stops.delete_old": {"age": lambda _: timedelta(days=-1)},
    "job_history.forget": {"age": lambda world: timedelta(days=-1)},
    "job_history.count_unused": {"age": lambda world: timedelta(days=-1)},
    "job_history.samples_of": {"keys": lambda world: [(world.project_id, "shell")]},
    "issues.replace_all": {"rows": lambda world: [("i-1", '{"id":"i-1","title":"x","status":"open"}')]},
    "issues.link": {"links": lambda world: [("i-1", world.ids["idle"])]},
    "retention.is_due": {"every": lambda world: timedelta(0)},
    "retention.end": {"done": lambda world: True},
    "retention.delete_costs": {"ids": lambda world: [f"cost-{name}" for name in ("mine", "theirs")]},
    "health.find_problems": {"patience": lambda world: _AT_ONCE},
    "health.stuck_tasks": {"patience": lambda world: _AT_ONCE},
    "health.late_leases": {"patience": lambda world: _AT_ONCE},
    "health.unserved_queue": {"patience": lambda world: _AT_ONCE, "messages": lambda world: 1},
    "health.ended_attempts": {"keys": lambda world: [(world.ids["lost"], 1)], "patience": lambda world: timedelta(0)},
    "questions.insert_question": {"row": _question},
    "questions.answer": {
        "question_id": _asked, "text": lambda world: "so", "by": lambda world: "me"
    },
    "questions.of_task": {"task_id": lambda world: world.ids["asks"]},
    "tasks.insert": {"rows": _new_tasks, "creator": lambda world: "user:me", "agents": lambda world: ["bo"]},
    "costs.with_agents": {"records": lambda world: [_cost("new", project_id=None)]},
    "ready.hold_back": {"subjects": lambda world: {}},
    "tasks.lock_by_key": {"keys": lambda world: ["done"]},
    "tasks.add_pending": {"task_id": lambda world: world.ids["next"], "more": lambda world: 1},
    "tasks.set_carried": {"carried": lambda world: {"x": 1}},
    "tasks.set_carried_by_attempt": {"carried": lambda world: {"x": 1}},
    "names.find_tasks": {"name": lambda world: world.ids["done"]},
    "names.projects_with_task": {"key": lambda world: "done"},
}  # fmt: skip
ADDS = {
    "tasks.insert", "principals.agent_ids", "principals.id_of", "principals.id_or_none", "principals.add_owner", "events.append_bulk",
    "artifacts.add", "merges.put", "prices.put", "host_leases.add",
    # what they add has the caller's workspace: no row of the other's changes, which the test checks too
    "budgets.insert_new", "costs.append", "job_history.learn", "events.append", "events.append_aged", "runs.insert_run", "runs.insert_session",
}  # fmt: skip


def plain(value: Any) -> str:
    """Return a result as text, to search it for ids."""
    if isinstance(value, RowMapping):
        value = dict(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif inspect.isgenerator(value) or isinstance(value, list | tuple | set):
        return " ".join(plain(item) for item in value)
    return json.dumps(value, default=repr) if isinstance(value, dict) and _texts(value) else repr(value)


def _texts(value: dict) -> bool:
    return all(isinstance(key, str) and (not isinstance(one, dict) or _texts(one)) for key, one in value.items())


@pytest.fixture
def two(store) -> tuple[World, World]:
    return Full(store, "mine").world, Full(store, "theirs").world


def test_no_function_reaches_into_another_workspace(two: tuple[World, World]) -> None:
    """Call each with my workspace and their ids: no row of theirs is returned or changed."""
    mine, theirs = two
    before = everything(theirs)
    secrets = {*theirs.ids.values(), theirs.project_id, theirs.run_id, "cost-theirs", '{"of":"theirs"}', "of:theirs"}
    leaks = []

    for name, function in SCOPED.items():
        call_arguments = arguments(name, function, theirs)
        sent = plain(call_arguments)
        try:
            with mine.store.write() as tx:
                answer = plain(function(tx, mine.workspace, **call_arguments))
                raise Undo  # noqa: TRY301 - each function gets the same rows
        except Undo:
            leaked = {secret for secret in secrets if secret in answer and secret not in sent}
            if leaked:
                leaks.append((name, leaked))

    for name, function in SCOPED.items():  # commit only now: what is stored with their ids is mine
        call_arguments = arguments(name, function, theirs)
        after = _after(mine, name, function, call_arguments)
        if after != "refused" and (now := everything(theirs)) != before:
            changed = {table for table in now if now[table] != before[table]}
            leaks.append((name, changed))
            before = now

    assert not leaks, leaks


class Undo(Exception):
    """Rolls everything back."""


def _after(world: World, name: str, function: Callable[..., Any], given: dict[str, Any]) -> str:
    """Call it and commit."""
    from sqlalchemy.exc import IntegrityError

    try:
        with world.store.write() as tx:
            plain(function(tx, world.workspace, **given))
    except (IntegrityError, Undo):
        return "refused"
    return "done"


def test_the_same_calls_do_find_and_change_ones_own_rows(two: tuple[World, World]) -> None:
    """Check that the same arguments do find and change rows in the own workspace."""
    mine, _ = two
    before = everything(mine)
    moved, result = set(), set()

    for name, function in SCOPED.items():
        call_arguments = arguments(name, function, mine)
        try:
            with mine.store.write() as tx:
                answer = plain(function(tx, mine.workspace, **call_arguments))
                rows = {
                    table.name: sorted(
                        repr(sorted(row.items()))
                        for row in tx.execute(select(table).where(table.c.workspace_id == mine.workspace)).mappings()
                    )
                    for table in metadata.tables.values()
                    if "workspace_id" in table.c
                }
                raise Undo  # noqa: TRY301 - each function gets the same rows
        except Undo:
            if rows != before:
                moved.add(name)
            if any(secret in answer for secret in (*mine.ids.values(), mine.project_id, mine.run_id)):
                result.add(name)

    assert len(moved) > 25, sorted(set(SCOPED) - moved)
    assert len(result) > 20, sorted(set(SCOPED) - result)
