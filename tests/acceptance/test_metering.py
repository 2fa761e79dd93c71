"""Test that attempts' usage is counted to the last call: in gates too, and when their worker is killed meanwhile."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from coordination.api.runs import Run
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.checkouts import Gate
from coordination.domain.money.costs import CostRecord
from coordination.domain.plans.plans import BudgetCap, Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import BlockReason, RunState, TaskState
from coordination.store.queries.money import costs
from tests.support.fleet import Fleet
from tests.support.processes import until

SLOW = {"COORD_LEASE_TTL": "90s", "COORD_LEASE_HEARTBEAT": "30s"}
"""Heartbeats that write nothing for as long as a test takes."""

JOBS = 64


def spends(dollars: str, **more: str) -> str:
    text = "".join(f', \\"{name}\\": \\"{value}\\"' for name, value in more.items())
    call = f'{{\\"model\\": \\"m\\", \\"input_tokens\\": 10, \\"cost_usd\\": \\"{dollars}\\"{text}}}'
    return f'echo "{call}" >> "$COORD_COSTS"; '


def waits_for_money(run: Run, key: str) -> bool:
    record = run.task(key).record
    return record.state is TaskState.BLOCKED and BlockReason.BUDGET in record.reasons


def counted_right(fleet: Fleet) -> None:
    assert all(one.right for one in fleet.co.budgets.check())
    assert not fleet.co.costs.check().wrong


def ledger(fleet: Fleet, run: Run) -> list[CostRecord]:
    with fleet.co.runtime.store.read() as tx:
        return list(costs.each(tx, fleet.co.runtime.workspace_id, run_id=run.id))


@pytest.mark.shared_worker
def test_a_gate_is_stopped_at_the_cap_of_its_task_which_waits_for_money_then(fleet: Fleet) -> None:
    gate = f"[ -e paid ] && exit 0; while :; do {spends('1')} sleep 0.2; done"
    fleet.worker("-c", "2")
    run = fleet.submit(Task("a", {"shell": spends("1") + "echo ok"}, budget=BudgetCap(Decimal(2)), gates=(Gate(gate),)))
    until(lambda: waits_for_money(run, "a"), within=timedelta(seconds=40), what="the stop")

    (attempt,) = run.task("a").attempts()
    assert attempt.outcome is Outcome.DEFERRED
    assert "it was stopped: the task's budget of $2.00 has $0.00 left; this needs $1.00" in str(attempt.error)
    assert run.task("a").record.failures == 0
    assert run.cost > 2
    counted_right(fleet)

    fleet.file("paid").touch()
    fleet.co.budgets.set("task", "a", usd=500)
    assert run.wait(timeout=60) is RunState.COMPLETED
    counted_right(fleet)


@pytest.mark.shared_worker
def test_one_id_with_two_amounts_counts_with_the_larger_and_both_are_shown(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    same = spends("0.20", id="x2")
    script = spends("0.01", id="x1") + same + same + spends("0.03", id="x1")
    run = fleet.submit(Task("a", {"shell": script}), Task("b", {"shell": spends("0.20", id="x2")}))

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert run.cost == Decimal("0.43")
    assert len(ledger(fleet, run)) == 3, "a call of one attempt is none of another's"
    text = "the call x1 was reported with several amounts, and the largest counts: "
    text += "$0.01 for 10 tokens, $0.03 for 10 tokens"
    (attempt,) = run.task("a").attempts()
    assert f"[usage] {text}" in str(attempt.log)
    assert text in fleet.coord("runs", "events", run.id, "--json").out
    assert text in fleet.coord("explain", "a", "--run", run.id).out
    listed = fleet.coord("costs", "list", "--run", run.id).out
    assert "$0.01, $0.03" in listed


def hangs_once(first: str, then: str) -> str:
    return f'if [ "$COORD_ATTEMPT" = 1 ]; then {first} touch told; sleep 600; fi; {then}'


JOB = hangs_once(spends("0.25") + spends("0.50", id="x1"), spends("0.10") + spends("0.50", id="x1"))
SAYS = "cat > /dev/null; " + hangs_once("echo '{\"usd\": 0.75}';", 'echo \'{"answer": "ok", "usd": 0.60}\'')
AGENT = AgentCall(
    "custom",
    "work",
    command=["/bin/sh", "-c", SAYS],
    reads={"format": "jsonl", "result": "answer", "cost_usd": "usd"},
    model="m",
)
TASKS = {
    "job": Task("a", {"shell": JOB}),
    "gate": Task("a", {"shell": spends("0.25")}, gates=(Gate(hangs_once(spends("0.50"), spends("0.35"))),)),
    "agent": Task("a", AGENT),
}


@pytest.mark.own_worker
@pytest.mark.full
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_no_heartbeat_wrote_of_a_killed_worker_is_not_lost(fleet: Fleet, task: Task) -> None:
    first = fleet.worker(**SLOW)
    run = fleet.submit(task)
    fleet.await_file_made("told")
    if task.run is AGENT:
        until(lambda: list((fleet.folder / "home" / "scratch").rglob("*.journal.json")), what="what the agent said")

    first.kill()
    assert run.cost == 0
    fleet.worker(**SLOW)

    assert run.wait(timeout=60) is RunState.COMPLETED
    by_attempt = {number: Decimal(0) for number in (1, 2)}
    for one in ledger(fleet, run):
        by_attempt[one.attempt or 0] += one.cost_usd or 0
    assert by_attempt == {1: Decimal("0.75"), 2: Decimal("0.60")}
    counted_right(fleet)
