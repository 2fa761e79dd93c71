"""Test jobs with accounts on real workers: who gets which values, what is recorded, and where no value ever appears."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from sqlalchemy import select

from coordination.adapters.account_store import Accounts
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.accounts import SecretPlace
from coordination.domain.plans.plans import Defaults, Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import RunState
from coordination.store.schema import metadata
from tests.acceptance.test_reports import COORD
from tests.support.fleet import Fleet
from tests.support.strict import ORDINARY, STRICT, needs

pytestmark = pytest.mark.shared_worker

KEY = "sk-ant-value-of-the-account"
SPENT = json.dumps({"model": "m", "cost_usd": 0.25, "input_tokens": 9})


def accounts_of(fleet: Fleet) -> Accounts:
    return Accounts(Path(fleet.env["COORD_HOME"]))


def program(fleet: Fleet, name: str, script: str) -> list[str]:
    """Return a custom agent's command."""
    path = fleet.file(name)
    path.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def rows(fleet: Fleet) -> str:
    """Return everything in the database as one text."""
    with fleet.co.runtime.store.read() as tx:
        return repr([tx.execute(select(table)).all() for table in metadata.sorted_tables])


@pytest.mark.smoke
def test_a_job_has_its_account_which_stands_on_its_attempt_and_costs_and_its_value_nowhere(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "2")
    accounts = accounts_of(fleet)
    accounts.set("claude@work", "ANTHROPIC_API_KEY", KEY, kept=SecretPlace.FILE)
    loud = (
        f"echo '{SPENT}' >> \"$COORD_COSTS\"\n"
        f'{COORD} task progress "I have $ANTHROPIC_API_KEY"\n'
        'echo "$ANTHROPIC_API_KEY" >&2\necho "key $ANTHROPIC_API_KEY"'
    )
    run = fleet.submit(
        Task("with", AgentCall("custom", "x", command=program(fleet, "loud", loud), account="claude@work")),
        Task(
            "without",
            AgentCall("custom", "x", command=program(fleet, "quiet", 'echo "has ${ANTHROPIC_API_KEY:-none}"')),
        ),
        Task("shell", {"shell": 'echo "has ${ANTHROPIC_API_KEY:-none}"'}),
    )

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert [run.task(key).output for key in ("with", "without", "shell")] == ["key ***", "has none", "has none"]
    assert [run.task(key).attempts()[0].account for key in ("with", "without", "shell")] == ["claude@work", None, None]
    groups = {one.key: (str(one.cost_usd), one.calls) for one in fleet.co.costs.summary("account")}
    assert groups == {"claude@work": ("0.25", 1)}
    exported = [json.loads(line) for line in fleet.co.costs.export()]
    assert [line["coordination"]["account"] for line in exported] == ["claude@work"]
    assert "claude@work" in rows(fleet)
    assert KEY not in rows(fleet)
    assert KEY not in worker.output
    for path in Path(fleet.env["COORD_HOME"]).rglob("*"):
        if path.is_file() and path.parent != accounts.folder:
            assert KEY.encode() not in path.read_bytes(), path


def test_commands_show_which_account_ran(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    accounts_of(fleet).set("claude@work", "ANTHROPIC_API_KEY", KEY, kept=SecretPlace.FILE)
    spends = program(fleet, "spends", f"echo '{SPENT}' >> \"$COORD_COSTS\"")
    run = fleet.submit(
        Task("named", AgentCall("custom", "x", command=spends)), defaults=Defaults(account="claude@work")
    )
    other = fleet.submit(Task("fits", AgentCall("custom", "x", command=spends)), defaults=Defaults(account="work"))
    run.wait(timeout=60)
    other.wait(timeout=60)

    (not_for_it,) = run.task("named").attempts()
    (unknown,) = other.task("fits").attempts()
    assert (not_for_it.account, not_for_it.outcome) == (None, Outcome.COMPLETED)  # claude@work is for claude alone
    assert (unknown.account, unknown.outcome) == ("work", Outcome.FAILED)
    assert "coord accounts set work" in (unknown.error or "")
    coord = fleet.coord
    shown = coord("tasks", "show", "fits", "--run", other.id, "--json").json
    assert [one["account"] for one in shown["attempts"]] == ["work"]
    assert "work" in coord("tasks", "show", "fits", "--run", other.id).out
    by = coord("costs", "summary", "--by", "account", "--json").json
    assert [(one["key"], one["calls"]) for one in by["groups"]] == [(None, 1)]


def test_what_a_job_reports_has_its_account_and_no_other(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    accounts = accounts_of(fleet)
    for name in ("one", "two"):
        accounts.set(name, "MY_KEY", f"{KEY}-{name}", kept=SecretPlace.FILE)
    command = [str(fleet.file("agent"))]
    body = {"agent": "custom", "prompt": "x", "command": command}
    reported = {
        "like": {"prompt": "the same"},
        "other": {**body, "account": "two"},
        "none": body,
    }
    lines = []
    for key, work in reported.items():
        fleet.file(f"{key}.json").write_text(json.dumps([{"key": key, "run": work}]))
        lines.append(f"{COORD} task discovered --file {shlex.quote(str(fleet.file(f'{key}.json')))} >> said 2>&1")
    first = "\n".join(lines)
    fleet.file("agent").write_text(
        f'#!/bin/sh\ncat > /dev/null\nif [ "$COORD_TASK_KEY" = a ]; then\n{first}\nfi\ntrue\n'
    )
    fleet.file("agent").chmod(0o755)
    run = fleet.submit(Task("a", AgentCall("custom", "x", command=command, account="one")))

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert {task.key: task.record.work.get("account") for task in run.tasks()} == {"a": "one", "like": "one"}
    assert fleet.file("said").read_text().count("run.account differs") == 2


@pytest.mark.own_worker
@pytest.mark.stores("sqlite")
@pytest.mark.parametrize("sandbox", [ORDINARY, STRICT], ids=["ordinary", "strict"])
def test_a_job_in_a_sandbox_reads_no_account(fleet: Fleet, sandbox: dict[str, str]) -> None:
    needs(sandbox)
    accounts = accounts_of(fleet)
    accounts.set("one", "MY_KEY", KEY, kept=SecretPlace.FILE)
    accounts.set("two", "MY_KEY", f"{KEY}-two", kept=SecretPlace.FILE)
    look = f'cat "{accounts.folder}"/*.json; echo "has ${{MY_KEY:-none}}" > seen.$COORD_TASK_KEY'
    run = fleet.submit(
        Task("shell", {"shell": f"{look}; echo looked"}),
        Task("agent", AgentCall("custom", "x", command=program(fleet, "looks", f"{look}; echo looked"), account="one")),
    )
    fleet.worker("-c", "2", **sandbox)

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert fleet.file("seen.shell").read_text() == "has none\n"
    assert fleet.file("seen.agent").read_text() == f"has {KEY}\n"
    for key in ("shell", "agent"):
        (attempt,) = run.task(key).attempts()
        assert attempt.output == "looked"
        assert f"{KEY}-two" not in (attempt.log or "")
        assert "MY_KEY" not in (attempt.log or "")
