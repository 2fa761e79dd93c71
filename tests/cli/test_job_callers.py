"""Test who may decide: for every command and every verb of the Python API, whether a job's process may use it.

A new command or verb fails here until it is in one of the lists.
"""

from __future__ import annotations

import inspect
import json
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from coordination import Gate, Plan, Profile, Task, connect
from coordination.adapters.account_store import Accounts
from coordination.api.agents import Agents
from coordination.api.budgets import Budgets
from coordination.api.connection import Coordination
from coordination.api.costs import Costs
from coordination.api.issues import Issues
from coordination.api.prices import Prices
from coordination.api.projects import Projects
from coordination.api.questions import Questions
from coordination.api.runs import Run
from coordination.api.tasks import TaskHandle
from coordination.base.errors import REFUSED, Refused
from coordination.base.host import WORKER_MARKER
from coordination.base.ids import new_id
from coordination.cli.main import app
from coordination.cli.stack import stack
from coordination.domain.tasks.tasks import TaskState
from coordination.settings import load_settings
from coordination.store.engine import open_store
from coordination.store.queries.fleet import workers
from tests.support.command import Coord
from tests.support.refusals import refuses

SAID = "A job of this store may change it only through its reports"

DECIDES = {
    "accounts set": "work REGION=eu",
    "accounts unset": "work",
    "agents change": "bob --model opus",
    "agents clone": "bob eve",
    "agents rename": "bob eve",
    "agents create": "eve --runner claude",
    "agents delete": "bob",
    "agents import": "agents.yaml",
    "beat": "",
    "budgets raise": "three 5",
    "budgets remove": "workspace",
    "budgets set": "workspace --usd 9",
    "costs check": "--repair",
    "costs import": "costs.jsonl",
    "costs reprice": "",
    "down": "",
    "import beads": "beads.jsonl",
    "migrate": "",
    "prices delete": "m",
    "prices set": "m --input 1 --output 1",
    "projects resume": "shop",
    "projects alias": "shop git@example.org:group/repo.git",
    "projects archive": "shop",
    "projects change": "shop --description x",
    "projects complete": "shop",
    "projects create": "other",
    "projects gates": "shop true",
    "projects pause": "shop",
    "projects limit": "shop --project 2",
    "rekey": "",
    "resume": "three",
    "retain": "",
    "run": "plan.yaml",
    "runs cancel": "three",
    "runs retry": "three",
    "start": "",
    "stop": "",
    "submit": "plan.yaml",
    "tasks answer": "a blue",
    "tasks assign": "a --person ann",
    "tasks cancel": "a",
    "tasks create": "x --shell true",
    "tasks force": "a completed --reason x",
    "tasks priority": "a 5",
    "tasks retry": "a",
    "up": "",
    "worker": "",
    "workspace timezone": "Europe/Berlin",
}
"""Commands that change the store or administer it, with arguments that would do so here."""

LOOKS = {
    *("accounts list", "accounts show"),
    *("agents export", "agents list", "agents show", "budgets check", "budgets list", "budgets show", "check"),
    *("costs export", "costs forecast", "costs list", "costs summary", "doctor", "explain", "export beads", "mcp"),
    *("prices list", "prices show", "projects list", "projects show", "questions", "ready", "runs events", "runs list"),
    *("runs show", "schema plan", "sessions list", "sessions show", "simulate", "status", "tasks artifacts"),
    *("tasks events", "tasks list", "tasks logs", "tasks output", "tasks prompt", "tasks show"),
    "tasks shell",  # starts a shell of the caller in the folder of a task
}
REPORTS = {
    f"task {verb}" for verb in ("ask", "context", "delegate", "discovered", "done", "escalate", "fail", "progress")
}
"""Commands that speak for the attempt, with its token, over its socket."""


def names_of(group: Any, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        called = f"{before} {name}".strip()
        if hasattr(command, "commands"):
            yield from names_of(command, called)
        else:
            yield called


def rows(coord: Coord) -> list[str]:
    with closing(sqlite3.connect(coord.home / "coordination.db")) as database:
        return list(database.iterdump())


@pytest.fixture
def in_a_job(coord: Coord, plan: Path) -> Coord:
    """Provide ``coord`` in a process that a job of the store has started; the store has objects of every kind."""
    coord("submit", plan)
    coord("agents", "create", "bob", "--runner", "claude")
    coord("agents", "export", "bob", "--output", "agents.yaml", code=None)
    for number, name in enumerate(("before.jsonl", "costs.jsonl")):
        call = {"id": f"call-{number}", "model": "m", "input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        (coord.cwd / name).write_text(json.dumps({**call, "timestamp": "2026-01-01T00:00:00Z"}) + "\n")
    coord("costs", "import", "before.jsonl")
    coord("prices", "set", "m", "--input", "1", "--output", "1")
    coord("budgets", "set", "workspace", "--usd", "5")
    (coord.cwd / "plan.yaml").write_bytes(plan.read_bytes())
    (coord.cwd / "agents.yaml").write_text(coord("agents", "export", "bob").out)
    (coord.cwd / "beads.jsonl").write_text('{"id": "x-1", "title": "t", "status": "open", "priority": 1}\n')
    worker_id = new_id()
    row = {"id": worker_id, "name": "w", "host": "h", "boot_id": "b", "pid": 1, "slots": 1, "version": "0"}
    store = open_store(f"sqlite:///{coord.home / 'coordination.db'}")
    with closing(store), store.write() as tx:
        workers.register(tx, row)
    return replace(coord, settings={WORKER_MARKER: worker_id})


def test_every_command_says_whether_a_job_may_use_it() -> None:
    assert sorted(names_of(typer.main.get_command(app))) == sorted([*DECIDES, *LOOKS, *REPORTS])


def test_a_command_that_decides_is_refused_in_a_job_and_changes_nothing(
    in_a_job: Coord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "_become", lambda arguments: pytest.fail(f"it became {arguments}"))
    before = rows(in_a_job)
    went: dict[str, str] = {}

    for command, arguments in DECIDES.items():
        result = in_a_job(*command.split(), *shlex.split(arguments), code=None)
        if result.code != REFUSED or SAID not in result.err or rows(in_a_job) != before:
            went[command] = f"{result.code} {result.out} {result.err}"

    assert not went, "\n".join(f"{name}: {what}" for name, what in went.items())


def test_a_job_may_look(in_a_job: Coord) -> None:
    before = rows(in_a_job)

    for command in ("status", "runs list", "tasks show a", "explain a", "doctor", "questions", "costs summary"):
        assert SAID not in in_a_job(*command.split(), code=None).err, command

    assert rows(in_a_job) == before


Verb = Callable[[Coordination], Any]


def _a(co: Coordination) -> TaskHandle:
    return co.task("a")


def _run(co: Coordination) -> Run:
    return co.runs()[0].id and co.run(co.runs()[0].id)


VERBS: dict[type, dict[str, Verb]] = {
    Accounts: {
        "set": lambda co: co.accounts.set("work", "MY_KEY", "0123456789"),
        "unset": lambda co: co.accounts.unset("work"),
    },
    Coordination: {
        "create": lambda co: co.create(Task("x", {"shell": "true"})),
        "replace_broker_key": lambda co: co.replace_broker_key(),
        "start": lambda co: co.start(),
        "stop": lambda co: co.stop(),
        "submit": lambda co: co.submit(Plan([Task("x", {"shell": "true"})])),
    },
    Run: {
        "cancel": lambda co: _run(co).cancel(),
        "resume": lambda co: _run(co).resume(),
        "retry": lambda co: _run(co).retry(),
    },
    TaskHandle: {
        "answer": lambda co: _a(co).answer("x"),
        "assign": lambda co: _a(co).assign(person="ann"),
        "cancel": lambda co: _a(co).cancel(),
        "force": lambda co: _a(co).force(TaskState.COMPLETED, reason="x"),
        "retry": lambda co: _a(co).retry(),
        "set_priority": lambda co: _a(co).set_priority(3),
    },
    Budgets: {
        "raise_to": lambda co: co.budgets.raise_to("three", 5),
        "remove": lambda co: co.budgets.remove("workspace"),
        "set": lambda co: co.budgets.set("workspace", usd=9),
    },
    Agents: {
        "change": lambda co: co.agents.change("bob", model="opus"),
        "clone": lambda co: co.agents.clone("bob", "eve"),
        "create": lambda co: co.agents.create(Profile("eve", runner="claude")),
        "delete": lambda co: co.agents.delete("bob"),
        "edit": lambda co: co.agents.edit("bob", lambda profile: replace(profile, model="opus")),
        "import_": lambda co: co.agents.import_(co.agents.export("bob")),
        "rename": lambda co: co.agents.rename("bob", "eve"),
    },
    Costs: {
        "check": lambda co: co.costs.check(repair=True),
        "import_file": lambda co: co.costs.import_file("costs.jsonl"),
        "reprice": lambda co: co.costs.reprice(),
        "set_timezone": lambda co: co.costs.set_timezone("Europe/Berlin"),
    },
    Issues: {
        "replace": lambda co: co.issues.replace([], identity="local:x", name="x", path=None),
    },
    Projects: {
        "add_alias": lambda co: co.projects.add_alias("shop", "https://example.org/shop"),
        "archive": lambda co: co.projects.archive("shop"),
        "change": lambda co: co.projects.change("shop", description="x"),
        "complete": lambda co: co.projects.complete("shop"),
        "create": lambda co: co.projects.create("other", remote="https://example.org/other"),
        "pause": lambda co: co.projects.pause("shop"),
        "resume": lambda co: co.projects.resume("shop"),
        "set_gates": lambda co: co.projects.set_gates("shop", [Gate("true")]),
        "set_limits": lambda co: co.projects.set_limits("shop", {"project": 1}),
    },
    Questions: {},
    Prices: {
        "delete": lambda co: co.prices.delete("m"),
        "set": lambda co: co.prices.set("m", input=1, output=1),
    },
}
LOOKING: dict[type, set[str]] = {
    Accounts: {"command", "get", "held", "names", "problems", "suggestion"},
    Coordination: {
        *("close", "project", "run", "runs", "simulate", "stopped", "task"),
    },
    Run: {
        *(
            "budget",
            "cost",
            "events",
            "id",
            "outputs",
            "record",
            "running",
            "runtime",
            "state",
            "task",
            "tasks",
            "wait",
        ),
    },
    TaskHandle: {
        *("artifacts", "attempts", "checkout", "cost", "error", "events", "explain", "id", "key", "logs", "output"),
        *("last_lines", "outdated", "runtime"),
        *("prompt", "questions", "record", "refresh", "state"),
    },
    Budgets: {"check", "lacking", "list", "of", "shortages"},
    Agents: {"events", "export", "get", "list", "list_with_records", "record"},
    Costs: {"export", "forecast", "free_but_priced", "span", "summary", "timezone", "total", "with_a_price"},
    Issues: {"list"},
    Prices: {"list", "list_with_projects", "look_up", "of"},
    Projects: {"details", "limits", "list", "list_with_totals"},
    Questions: {"list"},
}


@pytest.mark.parametrize("kind", VERBS, ids=lambda kind: kind.__name__)
def test_every_verb_of_the_python_api_says_whether_a_job_may_use_it(kind: type) -> None:
    public = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}

    assert public == VERBS[kind].keys() | LOOKING[kind]


def test_a_verb_that_decides_is_refused_in_a_job_and_changes_nothing(
    in_a_job: Coord, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in in_a_job.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(in_a_job.cwd)
    before = rows(in_a_job)

    with connect(load_settings(), migrate=True) as co:
        for verbs in VERBS.values():
            for name, verb in verbs.items():
                with refuses(Refused):
                    pytest.fail(f"{name}: {verb(co)}")

    assert rows(in_a_job) == before
