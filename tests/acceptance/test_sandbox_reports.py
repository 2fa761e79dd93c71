"""Test that a job's reports reach its worker in every sandbox, and with a home folder of any length."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from coordination.api.runs import Run
from coordination.domain.jobs import AgentCall, ChatCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from coordination.store.queries.money import costs
from tests.support.fleet import Fleet
from tests.support.model_server import ModelServer, ToolUse, running_model_server
from tests.support.repositories import Checkout
from tests.support.scratch import scratch_folder
from tests.support.strict import ORDINARY, STRICT, needs

pytestmark = pytest.mark.stores("sqlite")

COORD = shlex.quote(str(Path(sys.executable).with_name("coord")))
TOOLS = Path(__file__).parents[1] / "support" / "tool_server.py"
SPENDING = "from coordination.job import record_usage\n\n\ndef spend():\n    record_usage(model='m', cost_usd='0.25')\n"
ONE_CALL = ', "id": "filter"'
"""A filter runs as often as git likes."""

SANDBOXES = {
    "none": {},
    "ordinary": ORDINARY,
    "strict": STRICT,
    "strict-without-network": {**STRICT, "COORD_SANDBOX_NETWORK": "off"},
}


@pytest.fixture(params=SANDBOXES.values(), ids=SANDBOXES)
def sandbox(request: pytest.FixtureRequest) -> dict[str, str]:
    """Provide the sandbox setting of a worker."""
    if request.param:
        needs({"COORD_SANDBOX": "strict"} if "COORD_SANDBOX" in request.param else request.param)
    sandbox_kind: dict[str, str] = request.param
    return sandbox_kind


@pytest.fixture(params=["short", "long"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Provide a home folder: with a path that is valid for sockets, and with one that is too long."""
    if request.param == "long":
        yield str(tmp_path / "of a user with a very long name" / ("x" * 60))
        return
    with scratch_folder() as folder:
        yield str(folder / "h")


def spends(dollars: str, *, more: str = "") -> str:
    return f'echo \'{{"model": "m", "cost_usd": "{dollars}"{more}}}\' >> "$COORD_COSTS"'


def says(text: str) -> str:
    return f"{COORD} task progress {text}"


def talking(server: ModelServer) -> list[Task]:
    """Return a job of each kind that reports its progress and its usage, as far as its kind can."""
    both = f"{says('well')} && {spends('0.25')}"
    chat = ChatCall("openai:m", "x", url=f"{server.url}/v1", tools=["coord", {"command": [sys.executable, TOOLS.name]}])
    python = {"python": "spending:spend"}
    worktree = {"kind": "git-worktree", "setup": f"touch made && {spends('0.25')}"}
    agent = AgentCall("custom", "x", command=["/bin/sh", "-c", f"cat > /dev/null; {both}"])
    return [
        Task("shell", {"shell": both}),
        Task("agent", agent),
        Task("chat", chat),
        Task("python", python),
        Task("gated-python", python, gates=[spends("0.25")]),
        Task("gated", {"shell": "true"}, gates=[spends("0.25")]),
        Task("worktree", {"shell": both}, checkout=worktree, gates=[spends("0.25")]),
        Task("agent-in-worktree", agent, checkout={"kind": "git-worktree"}),
        Task("python-in-worktree", python, checkout={"kind": "git-worktree"}),
        Task(
            "filtered",
            {"shell": "echo x > a.paid"},
            checkout={"kind": "git-worktree"},
            needs=["worktree", "agent-in-worktree", "python-in-worktree"],  # where that file would be filtered, too
        ),
    ]


EXPECTED = {
    "shell": ("0.25", True),
    "agent": ("0.25", True),
    "chat": ("0.25", True),
    "python": ("0.25", False),
    "gated-python": ("0.50", False),
    "gated": ("0.25", False),
    "worktree": ("0.75", True),
    "agent-in-worktree": ("0.25", True),
    "filtered": ("0.25", False),
    "python-in-worktree": ("0.25", False),
}


def test_each_kind_of_job_says_what_it_is_at_and_what_it_has_spent(
    fleet: Fleet, home: str, sandbox: dict[str, str]
) -> None:
    created = Checkout(fleet.folder / "project")
    (created.path / "spending.py").write_text(SPENDING)
    shutil.copy(TOOLS, created.path)
    (created.path / ".gitattributes").write_text("*.paid filter=paid\n")
    created.git("config", "filter.paid.clean", f"{spends('0.25', more=ONE_CALL)} && cat")
    created.commit("Spend")
    turns = [ToolUse("progress", {"text": "well"}), ToolUse("sh", {"command": spends("0.25")}), "done"]
    with running_model_server(turns) as server:
        run = fleet.submit(*talking(server))
        worker = fleet.worker("-c", "2", **sandbox, COORD_HOME=home, OPENAI_API_KEY="k")

        state = run.wait(timeout=120)

    errors = {one.key: one.attempts()[-1].error for one in run.tasks()}
    assert {key: error for key, error in errors.items() if error is not None} == {}, worker.output
    assert state is RunState.COMPLETED
    with fleet.co.runtime.store.read() as tx:
        result = list(costs.each(tx, fleet.co.runtime.workspace_id, run_id=run.id))
    keys = {one.id: one.key for one in run.tasks()}
    spent = dict.fromkeys(EXPECTED, Decimal(0))
    for one in result:
        if one.model == "m" and one.cost_usd is not None:
            spent[keys[str(one.task_id)]] += one.cost_usd
    reporting = {event.key for event in run._events_after("0.0") if event.payload.get("text") == "well"}
    assert {key: (f"{spent[key]:.2f}", key in reporting) for key in spent} == EXPECTED
    left = [entry for entry in Path(home, "scratch").rglob("*") if entry.name.endswith((".jsonl", ".at", ".json"))]
    assert left == []


def spent_by_attempt(fleet: Fleet, run: Run) -> dict[int, Decimal]:
    with fleet.co.runtime.store.read() as tx:
        result = list(costs.each(tx, fleet.co.runtime.workspace_id, run_id=run.id))
    spent: dict[int, Decimal] = {}
    for one in result:
        spent[one.attempt or 0] = spent.get(one.attempt or 0, Decimal(0)) + (one.cost_usd or 0)
    return spent


@pytest.mark.expiring
def test_a_job_that_runs_alone_after_its_worker_was_killed_reports_as_ever(
    fleet: Fleet, sandbox: dict[str, str]
) -> None:
    first = fleet.worker("-c", "2", **sandbox)
    hangs = "if [ $COORD_ATTEMPT = 1 ]; then touch began; sleep 600; fi"
    run = fleet.submit(
        Task("a", {"shell": f"{says('well')} && {spends('0.25')}; {hangs}"}, gates=[f"{spends('0.50')}"])
    )
    fleet.await_file_made("began")

    first.kill()
    fleet.worker("-c", "2", **sandbox)

    assert run.wait(timeout=90) is RunState.COMPLETED
    assert spent_by_attempt(fleet, run) == {1: Decimal("0.25"), 2: Decimal("0.75")}
    attempts = [event.attempt for event in run._events_after("0.0") if event.payload.get("text") == "well"]
    assert attempts[-1] == 2


def test_a_job_that_runs_reports_after_the_key_was_replaced_and_so_does_the_next(
    fleet: Fleet, sandbox: dict[str, str]
) -> None:
    fleet.worker("-c", "2", **sandbox)
    waits = "touch began; while [ ! -e go ]; do sleep 0.1; done"
    run = fleet.submit(
        Task("a", {"shell": f"{waits}; {says('well')} && {COORD} task discovered later --shell 'echo x'"}),
        Task("b", {"shell": says("well")}, needs=["a"]),
    )
    fleet.await_file_made("began")

    assert "Replaced the key" in fleet.coord("rekey").out
    fleet.file("go").touch()

    assert run.wait(timeout=90) is RunState.COMPLETED
    assert run.task("later").output == "x"
    assert {event.key for event in run._events_after("0.0") if event.payload.get("text") == "well"} == {"a", "b"}
