"""Test worktrees that real workers prepare for their jobs, and the shell that opens one for a person."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.base.errors import NotFound
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.refusals import check_refused, refuses
from tests.support.repositories import Checkout
from tests.support.strict import ORDINARY, STRICT, needs

SETUP = {"kind": "git-worktree", "setup": "mkdir deps; echo 1 > deps/a", "share": ["deps"], "copy": [".env"]}


@pytest.fixture
def checkout(fleet: Fleet) -> Checkout:
    created = Checkout(fleet.folder / "project")
    (created.path / ".env").write_text("A=1\n")
    created.note()
    return created


@pytest.mark.smoke
def test_a_shell_opens_the_worktree_of_a_failed_task_until_it_is_gone(fleet: Fleet, checkout: Checkout) -> None:
    fleet.worker("-c", "2")
    job = {"shell": "echo mine > made.txt; false", "env": {"COLOR": "red", "FROM": "{{ run.id }}"}}
    run = fleet.submit(Task("fix", job, checkout=SETUP), Task("plain", {"shell": "true"}))
    assert run.wait(timeout=60) is RunState.FAILED

    shown = fleet.coord.process(
        "tasks",
        "shell",
        "fix",
        "--",
        "sh",
        "-c",
        "cat .env made.txt deps/a; echo $COLOR $COORD_TASK_KEY; git status -s",
    )
    output = fleet.coord.process("tasks", "shell", "fix", code=0)
    folder = fleet.coord.process("tasks", "shell", "plain", "--", "pwd")

    assert shown.out.split() == ["A=1", "mine", "1", "red", "fix", "??", "made.txt"]
    kept = run.task("fix").checkout()
    assert f"fix: {kept.path} of attempt 1. Leave with: exit" in output.err
    assert not kept.running
    assert folder.out.strip() == str(checkout.path)
    assert checkout.is_untouched()

    shutil.rmtree(kept.path)

    check_refused(fleet.coord("tasks", "shell", "fix", code=2), varies=r"/\S+")


def test_a_shell_opens_the_worktree_of_a_running_task(fleet: Fleet, checkout: Checkout) -> None:
    fleet.worker("-c", "2")
    run = fleet.submit(
        Task("wait", {"shell": "touch here; until test -e go; do sleep 0.05; done"}, checkout="git-worktree"),
        Task("later", {"shell": "true"}, needs=["wait"], checkout="git-worktree"),
    )
    fleet.await_event(run, EventType.STARTED, key="wait")
    until(lambda: run.task("wait").refresh().checkout().running, within=timedelta(seconds=20), what="it runs")

    shown = fleet.coord.process("tasks", "shell", "wait", "--", "touch", "go")

    assert shown.out == ""
    assert run.wait(timeout=60) is RunState.COMPLETED
    with refuses(NotFound):
        run.task("wait").checkout(attempt=9)
    with refuses(NotFound, varies=r"/\S+"):
        run.task("wait").checkout()


def test_ports_are_lent_while_an_attempt_runs_and_a_task_waits_for_some_when_none_is_left(
    fleet: Fleet, checkout: Checkout
) -> None:
    fleet.worker("-c", "3", COORD_PORTS="28100-28102")
    serve = (
        "python3 -c \"import os, socket as s; [s.create_server(('127.0.0.1', int(os.environ[n]))) for n in "
        "('PORT', 'COORD_PORT_2')]\" && echo $PORT $COORD_PORT_1 $COORD_PORT_2; sleep 0.4"
    )
    two = {"kind": "git-worktree", "ports": 2}
    tasks = [Task(f"t{number}", {"shell": serve}, checkout=two, gates=["test -n $PORT"]) for number in range(2)]
    many = Task("many", {"shell": "true"}, checkout={"kind": "git-worktree", "ports": 4})

    run = fleet.submit(*tasks, many)

    assert run.wait(timeout=90) is RunState.FAILED
    assert [run.task(task.key).state for task in tasks] == ["completed"] * 2
    for task in tasks:
        first, again, second = run.task(task.key).output.split()
        assert first == again < second
    assert "asks for 4 ports, and this machine has 3" in (run.task("many").error or "")


@pytest.mark.smoke
def test_each_attempt_gets_a_copy_of_a_sqlite_database_and_a_shell_the_same(fleet: Fleet, checkout: Checkout) -> None:
    fleet.worker("-c", "2")
    with closing(sqlite3.connect(checkout.path / "dev.db")) as original:
        original.execute("CREATE TABLE t (x)")
        original.execute("INSERT INTO t VALUES (1)")
        original.commit()
    (checkout.path / ".git" / "info" / "exclude").write_text("dev.db\n")
    use = (
        "import os, sqlite3, time; c = sqlite3.connect(os.environ['DB'].removeprefix('sqlite:///')); "
        "c.execute('INSERT INTO t VALUES (2)'); c.commit(); print(c.execute('SELECT count(*) FROM t').fetchone()[0])"
    )
    wanted = {
        "kind": "git-worktree",
        "ports": 1,
        "database": {"clone": "sqlite:///dev.db", "variable": "DB"},
    }
    wait = f'python3 -c "{use}"; until test -e go; do sleep 0.05; done'

    run = fleet.submit(Task("a", {"shell": wait, "env": {"DB": "other"}}, checkout=wanted, gates=["test -n $DB"]))
    fleet.await_event(run, EventType.STARTED, key="a")
    output = fleet.coord.process(
        "tasks", "shell", "a", "--", "sh", "-c", "echo $DB $PORT $COORD_PORT_1; touch go"
    ).out.split()

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("a").output == "2"
    assert output[0].startswith("sqlite:////")
    assert not Path(output[0].removeprefix("sqlite:///")).exists()
    assert output[1] == output[2]
    with closing(sqlite3.connect(checkout.path / "dev.db")) as original:
        assert original.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_the_password_of_a_database_is_not_shown(fleet: Fleet, checkout: Checkout) -> None:
    wanted = {"kind": "git-worktree", "database": {"clone": "postgresql://ann:geheim@db.example/shop"}}
    fleet.submit(Task("a", {"shell": "true"}, checkout=wanted))

    shown = [fleet.coord("tasks", *words, "a").out for words in (["show"], ["show", "--json"], ["events", "--json"])]

    assert "postgresql://ann:***@db.example/shop" in shown[1]
    assert "geheim" not in "".join(shown)


@pytest.mark.stores("sqlite")
@pytest.mark.parametrize(
    "sandbox", [pytest.param(ORDINARY, id="ordinary"), pytest.param(STRICT, id="strict", marks=pytest.mark.full)]
)
def test_a_prepared_worktree_works_in_a_sandbox_which_keeps_jobs_from_what_is_shared(
    fleet: Fleet, checkout: Checkout, sandbox: dict[str, str]
) -> None:
    needs(sandbox)
    fleet.worker("-c", "1", **sandbox)
    keys = SETUP | {"setup": "mkdir -p deps/lib; echo 1 > deps/lib/a; echo own > made", "ports": 1}
    change = "test -n $PORT; cat .env deps/lib/a made; echo 2 > deps/lib/a || echo 2 > deps/lib/b || echo kept"

    run = fleet.submit(
        Task("first", {"shell": "cat deps/lib/a"}, checkout=keys),
        Task("second", {"shell": change}, checkout=keys, needs=["first"]),
        Task("third", {"shell": "cat deps/lib/a; ls deps/lib"}, checkout=keys, needs=["second"]),
    )

    assert run.wait(timeout=60) is RunState.COMPLETED, [task.error for task in run.tasks()]
    assert run.task("second").output.split() == ["A=1", "1", "own", "kept"]
    assert run.task("third").output.split() == ["1", "a"]


@pytest.mark.stores("sqlite")
def test_a_task_that_waits_for_a_port_says_so_and_doctor_counts_what_is_lent(fleet: Fleet, checkout: Checkout) -> None:
    fleet.worker("-c", "2", COORD_PORTS="28200-28200")
    keys = {"kind": "git-worktree", "ports": 1, "setup": "touch made"}
    hold = "until test -e go; do sleep 0.05; done"
    run = fleet.submit(Task("has", {"shell": hold}, checkout=keys))
    fleet.await_event(run, EventType.STARTED, key="has")
    late = fleet.submit(Task("waits", {"shell": "true"}, checkout=keys))
    until(lambda: late.task("waits").attempts() and late.task("waits").attempts()[0].error, what="it is put off")

    waits = fleet.coord("explain", "waits").out
    doctor = fleet.coord.process("doctor", code=None).out

    assert "Only 0 of the ports 28200 to 28200 of this machine are free" in waits
    assert "ports: running attempts use 1 of 4,000" in doctor
    assert "setups: 1 result in " in doctor
    run.task("has").cancel()
    late.cancel()
    run.wait(timeout=30)
