"""Test budgets with real workers on both databases: capped work stops in order, and continues when a cap is raised."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from coordination.api.runs import Run
from coordination.domain.jobs import AgentCall, ChatCall
from coordination.domain.money.budgets import BudgetScope
from coordination.domain.plans.plans import BudgetCap, Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import BlockReason, RunState, TaskState
from coordination.store.queries.money import costs
from tests.support.command import coord_in
from tests.support.fleet import Fleet
from tests.support.model_server import INPUT_TOKENS, OUTPUT_TOKENS, ModelServer, ToolUse, running_model_server
from tests.support.processes import Processes, until
from tests.support.sources import ROOT
from tests.support.stand_in import DONE, SAID, SESSION, StandIn

TOOLS = Path(__file__).parents[1] / "support" / "tool_server.py"
CALL = (Decimal("0.25") * INPUT_TOKENS + 2 * OUTPUT_TOKENS) / 1_000_000
"""What a call of gpt-5-mini costs, by the list that comes along."""


def chat(server: ModelServer) -> ChatCall:
    tools = [{"command": [sys.executable, str(TOOLS)]}]
    return ChatCall("openai:gpt-5-mini", "How is it?", url=f"{server.url}/v1", tools=tools)


def spending(dollars: str) -> dict[str, str]:
    text = f'{{\\"model\\": \\"m\\", \\"input_tokens\\": 10, \\"cost_usd\\": {dollars}}}'
    return {"shell": f'echo "{text}" >> "$COORD_COSTS"'}


def waits_for_money(run: Run, key: str) -> bool:
    record = run.task(key).record
    return record.state is TaskState.BLOCKED and BlockReason.BUDGET in record.reasons


def counted_right(fleet: Fleet) -> None:
    assert all(one.right for one in fleet.co.budgets.check())


@pytest.mark.shared_worker
def test_a_chat_is_stopped_before_the_call_that_its_task_cannot_pay_and_goes_on_when_it_can(fleet: Fleet) -> None:
    add = ToolUse("add", {"a": 1, "b": 1})
    with running_model_server([add, add, add, add, "Fine"]) as server:
        fleet.worker("-c", "2")
        run = fleet.submit(Task("ask", chat(server), budget=BudgetCap(CALL * Decimal("2.5"))))
        until(lambda: waits_for_money(run, "ask"), within=timedelta(seconds=40), what="the stop")

        assert server.served == 2, "a third call would not fit"
        assert run.cost == 2 * CALL
        (attempt,) = run.task("ask").attempts()
        assert attempt.outcome is Outcome.DEFERRED
        assert run.task("ask").record.failures == 0
        (standing,) = fleet.co.budgets.of(BudgetScope.TASK, run.task("ask").id)
        assert (standing.spent.usd, standing.reserved.usd, standing.waiting) == (2 * CALL, 0, 1)
        explained = fleet.coord("explain", "ask").out
        assert "the task's budget of $0.000725 has $0.000145 left; this needs $0.00029" in explained
        assert f"coord budgets set task {run.task('ask').id} --usd N" in explained
        counted_right(fleet)

        fleet.coord("budgets", "set", "task", "ask", "--usd", "0.01")
        assert run.wait(timeout=60) is RunState.COMPLETED

    assert run.task("ask").output == "Fine"
    assert server.served == 5
    assert run.cost == 5 * CALL, "what was served is what is billed"
    counted_right(fleet)


@pytest.mark.shared_worker
def test_an_agent_that_is_stopped_for_want_of_money_keeps_what_it_had_said(fleet: Fleet) -> None:
    script = (
        'cat >/dev/null; echo \'{"answer": "half of it", "usd": 0.30}\'; '
        'if [ "$COORD_ATTEMPT" = 1 ]; then sleep 60; fi; echo \'{"answer": "all of it", "usd": 0.10}\''
    )
    reads = {"format": "jsonl", "result": "answer", "cost_usd": "usd"}
    work = AgentCall("custom", "work", command=["/bin/sh", "-c", script], reads=reads, model="m")
    fleet.worker("-c", "2")
    run = fleet.submit(Task("write", work, budget=BudgetCap(Decimal("0.50"), max_unpriced_calls=9)))
    until(lambda: waits_for_money(run, "write"), within=timedelta(seconds=40), what="the stop")

    (attempt,) = run.task("write").attempts()
    assert attempt.output == "half of it"
    assert "it was stopped: the task's budget of $0.50 has $0.20 left; this needs $0.30" in str(attempt.error)
    assert run.cost == Decimal("0.30")

    fleet.co.budgets.set("task", "write", usd=2)
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("write").output == "all of it"
    assert run.cost == Decimal("0.70")
    counted_right(fleet)


@pytest.mark.shared_worker
def test_an_agent_goes_on_in_the_same_conversation_when_there_is_money_again(fleet: Fleet, tmp_path: Path) -> None:
    model = "claude-sonnet-4-5"  # three dollars a million in
    message = {**SAID["message"], "model": model, "usage": {"input_tokens": 100_000}}
    done = {**DONE, "modelUsage": {model: {"inputTokens": 9, "outputTokens": 2, "costUSD": 0.1}}}
    first = f"case \"$*\" in *'--resume b658'*) printf '%s\\n' '{json.dumps(done)}'; exit;; esac"
    command = StandIn(tmp_path)(SESSION, {**SAID, "message": message}, first=first, then="exec sleep 60")
    fleet.worker("-c", "2")
    run = fleet.submit(Task("look", AgentCall("claude", "Look", command=command), budget=BudgetCap(Decimal("0.50"))))
    until(lambda: waits_for_money(run, "look"), within=timedelta(seconds=40), what="the stop")
    assert run.cost == Decimal("0.30")

    fleet.co.budgets.set("task", run.task("look").id, usd=1)

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("look").output == "All done"
    assert run.cost == Decimal("0.40")
    assert run.task("look").record.failures == 0
    counted_right(fleet)


@pytest.mark.expiring
def test_what_a_killed_worker_had_spent_counts_once_and_what_it_had_reserved_comes_back(fleet: Fleet) -> None:
    answers = [ToolUse("add", {"a": 1, "b": 1}), ToolUse("sh", {"command": "echo $$ > pid; exec sleep 600"}), "Again"]
    with running_model_server(answers) as server:
        worker = fleet.worker("-c", "1")
        run = fleet.submit(Task("ask", chat(server)), budget=BudgetCap(Decimal("0.01")))
        fleet.await_file("pid")
        until(lambda: run.cost == 2 * CALL, within=timedelta(seconds=20), what="both calls in the ledger")
        standing = run.budget
        assert standing is not None
        assert standing.spent.usd == 2 * CALL
        assert standing.reserved.usd >= CALL

        worker.kill()
        fleet.worker("-c", "1")
        assert run.wait(timeout=60) is RunState.COMPLETED

    assert server.served == 3
    assert run.cost == 3 * CALL
    with fleet.co.runtime.store.read() as tx:
        records = costs.newest(tx, fleet.co.runtime.workspace_id, run_id=run.id, limit=100)
    assert sorted(one.attempt or 0 for one in records) == [1, 1, 2]
    standing = run.budget
    assert standing is not None
    assert (standing.spent.usd, standing.reserved.usd) == (3 * CALL, 0)
    counted_right(fleet)


@pytest.mark.shared_worker
def test_a_command_that_passes_its_own_cap_is_stopped_keeps_what_it_printed_and_begins_anew_when_raised(
    fleet: Fleet, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    pay = str(spending("0.20")["shell"])
    first = f"trap 'touch {ended}; exit 1' TERM; for n in 1 2 3 4 5; do {pay}; echo call $n; sleep 2 & wait $!; done"
    script = f'if [ "$COORD_ATTEMPT" = 1 ]; then {first}; fi; {pay}; echo all of it'
    fleet.worker("-c", "2")
    run = fleet.submit(Task("pay", {"shell": script}, budget=BudgetCap(Decimal("0.50"))))
    until(lambda: waits_for_money(run, "pay"), within=timedelta(seconds=40), what="the stop")

    (attempt,) = run.task("pay").attempts()
    assert attempt.outcome is Outcome.DEFERRED
    assert "call 3" in str(attempt.output)
    assert "call 5" not in str(attempt.output)
    assert ended.exists(), "it was asked before it was ended"
    assert run.task("pay").record.failures == 0
    spent = run.cost
    assert Decimal("0.60") <= spent <= Decimal("0.80"), "what it reported as it ran is in the ledger"
    (standing,) = fleet.co.budgets.of(BudgetScope.TASK, run.task("pay").id)
    assert (standing.spent.usd, standing.reserved.usd, standing.waiting) == (spent, 0, 1)
    explained = fleet.coord("explain", "pay").out
    assert f"this needs ${spent + Decimal('0.20'):.2f}" in explained, "it will begin anew"
    counted_right(fleet)

    fleet.co.budgets.set("task", "pay", usd=3)
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("pay").output == "all of it"
    assert run.cost == spent + Decimal("0.20")
    counted_right(fleet)


@pytest.mark.shared_worker
def test_a_command_that_may_not_be_repeated_is_counted_as_it_runs_and_not_stopped(fleet: Fleet) -> None:
    pay = str(spending("0.20")["shell"])
    script = f"{pay}; {pay}; {pay}; sleep 4; echo done"
    fleet.worker("-c", "2")
    run = fleet.submit(Task("pay", {"shell": script}, budget=BudgetCap(Decimal("0.50")), repeatable=False))
    until(lambda: run.cost == Decimal("0.60"), within=timedelta(seconds=40), what="the checkpoint")

    assert run.task("pay").record.state is TaskState.RUNNING
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert (run.cost, run.task("pay").output) == (Decimal("0.60"), "done")
    counted_right(fleet)


@pytest.mark.expiring
def test_what_a_command_had_reported_when_its_worker_was_killed_is_billed_once(fleet: Fleet) -> None:
    pay = str(spending("0.20")["shell"])
    script = f'{pay}; if [ "$COORD_ATTEMPT" = 1 ]; then sleep 60; fi; echo done'
    worker = fleet.worker("-c", "2")
    run = fleet.submit(Task("pay", {"shell": script}, budget=BudgetCap(Decimal(5))))
    until(lambda: run.cost == Decimal("0.20"), within=timedelta(seconds=40), what="the checkpoint")
    os.kill(worker.pid, signal.SIGKILL)
    fleet.worker("-c", "2")

    assert run.wait(timeout=90) is RunState.COMPLETED
    assert run.cost == Decimal("0.40")
    assert len(run.task("pay").attempts()) == 2
    counted_right(fleet)


@pytest.mark.shared_worker
@pytest.mark.smoke
def test_of_forty_jobs_exactly_those_complete_for_which_there_is_money_and_then_all(fleet: Fleet) -> None:
    fleet.worker("-c", "8")
    jobs = [Task(f"t{number:02}", spending("0.05"), estimate={"usd": "0.05"}) for number in range(40)]
    run = fleet.submit(*jobs, budget=BudgetCap(Decimal("0.50")))

    def settled() -> bool:
        counts = run.record.counts
        return counts.get(TaskState.COMPLETED) == 10 and counts.get(TaskState.BLOCKED) == 30

    until(settled, within=timedelta(seconds=60), what="ten completed, thirty that wait")
    standing = run.budget
    assert standing is not None
    assert (standing.spent.usd, standing.reserved.usd, standing.left_usd) == (Decimal("0.50"), 0, 0)
    assert (standing.percent, standing.waiting) == (100, 30)
    shown = fleet.coord("status").out
    assert "budgets for which tasks wait" in shown
    counted_right(fleet)

    fleet.coord("budgets", "raise", run.id, "2")
    assert run.wait(timeout=90) is RunState.COMPLETED
    standing = run.budget
    assert standing is not None
    assert (standing.spent.usd, standing.reserved.usd) == (Decimal("2.00"), 0)
    counted_right(fleet)


def test_a_run_that_waits_for_money_says_so_and_can_be_left_and_taken_up_again(
    processes: Processes, tmp_path: Path
) -> None:
    coord = coord_in(tmp_path)
    job = spending("0.05")["shell"]
    tasks = [{"key": f"t{number}", "estimate": {"usd": 0.05}, "run": {"shell": job}} for number in range(5)]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "name": "short", "budget": {"usd": 0.2}, "tasks": tasks}))
    output = (
        r"1 task waits for a budget, and nothing else of this run can continue:\n"
        r"  the run's budget of \$0.20 has \$0.00 left; this needs \$0.05."
        r" Raise it: \S*coord budgets raise run (\S+) USD\n"
    )
    run = processes.start_python(
        *("-m", "coordination.cli", "run", str(plan), "--json"), env=coord.environment, cwd=coord.cwd
    )
    run_id = run.wait_for(output)[1]
    assert run.wait(within=timedelta(seconds=60)) == 3
    assert f"coord resume {run_id}" in run.output
    coord("budgets", "raise", run_id, "0.25")
    again = processes.start_python(*("-m", "coordination.cli", "resume", run_id), env=coord.environment, cwd=coord.cwd)

    assert again.wait(within=timedelta(seconds=60)) == 0, again.output
    assert "cost $0.25" in again.output


def agent(script: str) -> AgentCall:
    return AgentCall("custom", "work", command=["/bin/sh", "-c", f"cat >/dev/null; {script}"])


@pytest.mark.shared_worker
def test_agents_that_cost_nothing_start_as_often_as_a_budget_of_starts_allows(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    busy = agent('[ "$COORD_ATTEMPT" != 1 ] || exit 7; echo done')
    run = fleet.submit(
        *(Task(key, busy, max_attempts=3, backoff=Backoff(timedelta(0))) for key in "ab"), budget=BudgetCap(starts=3)
    )

    def settled() -> bool:
        counts = run.record.counts
        return counts.get(TaskState.COMPLETED) == 1 and counts.get(TaskState.BLOCKED) == 1

    until(settled, within=timedelta(seconds=60), what="three starts, and a task that waits for the fourth")
    (waiting,) = [key for key in "ab" if waits_for_money(run, key)]
    standing = run.budget
    assert standing is not None
    assert (standing.spent.starts, standing.left_starts, standing.percent, standing.waiting) == (3, 0, 100, 1)
    explained = fleet.coord("explain", waiting).out
    assert "the run's budget of 3 starts has 0 left; this needs 1 start. Raise it: " in explained
    counted_right(fleet)

    fleet.coord("budgets", "set", "run", run.id, "--starts", "4")
    assert run.wait(timeout=60) is RunState.COMPLETED
    counted_right(fleet)


@pytest.mark.expiring
def test_the_start_of_an_agent_whose_worker_was_killed_counts_once(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2")
    run = fleet.submit(
        Task("a", agent('if [ "$COORD_ATTEMPT" = 1 ]; then sleep 60; fi; echo done')), budget=BudgetCap(starts=9)
    )
    fleet.await_event(run, EventType.STARTED)
    os.kill(worker.pid, signal.SIGKILL)
    fleet.worker("-c", "2")

    assert run.wait(timeout=90) is RunState.COMPLETED
    standing = run.budget
    assert standing is not None
    assert standing.spent.starts == len(run.task("a").attempts()) == 2
    counted_right(fleet)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.full
def test_the_example_meets_its_cap_is_raised_and_ends(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COORD_")}
    environment |= {"COORD_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    if database == "postgres":
        environment["COORD_DATABASE_URL"] = request.getfixturevalue("postgres_url")
    command = [sys.executable, str(ROOT / "examples" / "capped.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout
    assert "20 tasks wait for a budget" in output
    before, after = output.split("== coord budgets raise", 1)
    assert [line.split()[3:5] for line in before.splitlines() if line.startswith("run ") and "total" in line] == [
        ["$0.50", "$0.50,"]
    ]
    assert "30 completed; cost $1.50" in after
    assert "1 budget checked, 0 differ." in after
