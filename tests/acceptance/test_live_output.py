"""Test that output is visible while jobs run: on other machines, after a worker's death, and in any amount."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from coordination.api.runs import Run
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.output import Stream
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import RunState
from coordination.store.tables.jobs.output import output_chunks
from tests.support.fleet import Fleet, seconds_until
from tests.support.processes import Process, until
from tests.support.speed import patience

SAYS_AND_WAITS = "echo begun; echo careful >&2; touch said; while [ ! -e go ]; do sleep 0.05; done; printf over"
SOON = 2 + patience(0.5)  # two seconds, and a little for a busy machine


def text(run: Run, key: str, stream: Stream | None = None, attempt: int | None = None) -> str:
    logs = run.task(key).logs(attempt=attempt)
    return "".join(piece.text for piece in logs if stream in (None, piece.stream))


def coord(fleet: Fleet, *arguments: str) -> Process:
    return fleet.processes.start_python("-m", "coordination.cli", *arguments, env=fleet.env, cwd=fleet.folder)


def rows(fleet: Fleet) -> int:
    with fleet.co.runtime.store.read() as tx:
        of_workspace = output_chunks.c.workspace_id == fleet.co.runtime.workspace_id
        return tx.execute(select(func.count()).where(of_workspace)).scalar_one()


@pytest.mark.parametrize(
    "job",
    [
        {"shell": SAYS_AND_WAITS},
        {"python": "saying:say"},
        {"agent": "custom", "prompt": "say it", "command": ["/bin/sh", "-c", SAYS_AND_WAITS]},
    ],
    ids=["shell", "python", "agent"],
)
@pytest.mark.shared_worker
@pytest.mark.smoke
def test_output_is_there_while_the_job_runs_and_afterwards(fleet: Fleet, job: dict) -> None:
    fleet.file("saying.py").write_text(
        "import pathlib, sys, time\n\n\ndef say():\n    print('begun')\n    print('careful', file=sys.stderr)\n"
        "    pathlib.Path('said').touch()\n    while not pathlib.Path('go').exists():\n        time.sleep(0.05)\n"
        "    print('over', end='')\n"
    )
    fleet.worker("-c", "2")
    run = fleet.submit(Task("job", job))
    fleet.await_file_made("said")

    seconds = seconds_until(lambda: text(run, "job") == "begun\ncareful\n", within=10, what="what it said")

    assert seconds < SOON
    fleet.file("go").touch()
    assert run.wait(timeout=30) is RunState.COMPLETED
    assert text(run, "job") == "begun\ncareful\nover"
    if "python" not in job:
        assert text(run, "job", Stream.ERR) == "careful\n"
        assert run.task("job").output == "begun\nover"


@pytest.mark.shared_worker
def test_a_short_job_costs_no_row_and_is_shown_all_the_same(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    run = fleet.submit(*(Task(f"t{number}", {"shell": "echo hi; echo oh >&2"}) for number in range(30)))

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert rows(fleet) == 0
    assert (text(run, "t7", Stream.OUT), text(run, "t7", Stream.ERR)) == ("hi\n", "oh\n")


@pytest.mark.shared_worker
def test_following_goes_on_into_the_next_attempt_and_ends_with_the_task(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    command = (
        'echo "attempt $COORD_ATTEMPT"; while [ ! -e go.$COORD_ATTEMPT ]; do sleep 0.05; done; '
        'echo "end of $COORD_ATTEMPT"; [ $COORD_ATTEMPT = 2 ]'
    )
    wait = Backoff(initial=timedelta(seconds=0.1))
    run = fleet.submit(Task("job", {"shell": command}, max_attempts=2, backoff=wait))
    follower, of_one = (coord(fleet, "tasks", "logs", "job", "-f", *more) for more in ((), ("--attempt", "1")))

    follower.wait_for("attempt 1")
    fleet.file("go.1").touch()
    follower.wait_for("attempt 2")
    fleet.file("go.2").touch()

    assert follower.wait() == 0
    assert run.state is RunState.COMPLETED
    output = [line for line in follower.output.splitlines() if "coord:" not in line]
    assert output == ["attempt 1", "end of 1", "attempt 2", "end of 2"]
    if of_one.wait() == 0:
        assert of_one.output.splitlines() == ["attempt 1", "end of 1"]
    else:  # it asked before there was a first attempt
        assert "no attempt 1" in of_one.output


@pytest.mark.shared_worker
def test_ctrl_c_ends_following_and_nothing_else(fleet: Fleet) -> None:
    fleet.worker()
    run = fleet.submit(Task("job", {"shell": SAYS_AND_WAITS}))
    follower = coord(fleet, "tasks", "logs", "job", "--follow")
    follower.wait_for("begun")

    follower.signal(signal.SIGINT)

    assert follower.wait() == 130
    fleet.file("go").touch()
    assert run.wait(timeout=30) is RunState.COMPLETED


@pytest.mark.expiring
def test_what_was_written_survives_the_workers_death(fleet: Fleet) -> None:
    worker = fleet.worker()
    run = fleet.submit(Task("job", {"shell": "echo by $COORD_ATTEMPT; [ $COORD_ATTEMPT = 1 ] && sleep 60; true"}))
    until(lambda: run.task("job").record.attempt and text(run, "job") == "by 1\n", what="the first one's word")

    worker.kill()
    fleet.worker()

    assert run.wait(timeout=30) is RunState.COMPLETED
    assert [attempt.outcome for attempt in run.task("job").attempts()] == [Outcome.LOST, Outcome.COMPLETED]
    assert text(run, "job", attempt=1) == "by 1\n"
    assert text(run, "job") == "by 2\n"


@pytest.mark.full
def test_a_flood_is_bounded_and_says_what_is_left_out(fleet: Fleet) -> None:
    fleet.worker("-c", "1", COORD_OUTPUT_LIMIT="200000")
    loud = (
        "import sys, time\nend = time.monotonic() + 5\nn = 0\n"
        "sys.stdout.write('x' * 100_000_000 + '\\n')\n"
        "while time.monotonic() < end:\n"
        "    for _ in range(500):\n        sys.stdout.write(f'line {n} {chr(8364) * 20}\\n'); n += 1\n"
        "    time.sleep(0.05)\n"
        "print(f'lines {n}')\n"
    )
    run = fleet.submit(Task("job", {"shell": f"exec {shlex.quote(sys.executable)} -c {shlex.quote(loud)}"}))

    assert run.wait(timeout=90) is RunState.COMPLETED

    pieces = list(run.task("job").logs())
    lines = int(run.task("job").output.splitlines()[-1].split()[1])
    assert lines > 5_000
    assert rows(fleet) <= 200_000 // 16_384 + 1
    assert pieces[0].text.startswith("xxxx")
    assert pieces[-1].text.endswith(f"line {lines - 1} {'€' * 20}\nlines {lines}\n")
    assert sum(piece.left_out for piece in pieces) > 99_000_000
    assert sum(len(piece.text.encode()) for piece in pieces) < 250_000


def test_an_agent_is_shown_by_what_it_says_and_its_secrets_are_not(fleet: Fleet) -> None:
    lines = [
        {"answer": {"text": "The key is sk-very-secret, I think"}},
        {"answer": {"text": "Done"}},
    ]
    script = (
        "printf 'sk-very-'  >&2; sleep 1.5; echo 'secret' >&2; "
        + "; ".join(f"echo {shlex.quote(json.dumps(line))}" for line in lines)
        + "; echo not json; touch said; while [ ! -e go ]; do sleep 0.05; done"
    )
    fleet.worker(MY_API_KEY="sk-very-secret")
    call = AgentCall(
        "custom",
        "say it",
        command=["/bin/sh", "-c", script],
        secrets=["MY_API_KEY"],
        reads={"format": "jsonl", "result": "answer.text"},
    )
    run = fleet.submit(Task("job", call))
    fleet.await_file_made("said")
    until(lambda: "not json" in text(run, "job"), within=timedelta(seconds=SOON), what="its words")
    before = text(run, "job")

    fleet.file("go").touch()
    assert run.wait(timeout=30) is RunState.COMPLETED

    assert "sk-very" not in before + text(run, "job")
    assert "The key is ***, I think\nDone\nnot json\n" in text(run, "job")
    assert text(run, "job", Stream.ERR) == "***\n"


@pytest.mark.shared_worker
def test_what_an_agent_said_that_soon_failed_is_there_too(fleet: Fleet) -> None:
    messages = [{"id": "c-1"}, {"answer": {"text": "I look at the door"}}, {"answer": {"text": "It is locked"}}]
    script = "; ".join(f"echo {shlex.quote(json.dumps(line))}" for line in messages) + "; exit 3"
    call = AgentCall(
        "custom",
        "open it",
        command=["/bin/sh", "-c", script],
        reads={"format": "jsonl", "result": "answer.text", "session": "id"},
    )
    fleet.worker()

    run = fleet.submit(Task("job", call))

    assert run.wait(timeout=30) is RunState.FAILED
    assert text(run, "job") == "I look at the door\nIt is locked\n"


@pytest.mark.expiring
def test_an_attempt_that_lost_its_lease_writes_nothing_more(fleet: Fleet) -> None:
    worker = fleet.worker()
    run = fleet.submit(Task("job", {"shell": "while :; do echo by $COORD_ATTEMPT; sleep 0.1; done"}))
    until(lambda: run.task("job").record.attempt and "by 1" in text(run, "job"), what="the first one's word")
    fleet.suspend(worker)
    fleet.worker()
    until(lambda: run.task("job").record.attempt == 2, within=timedelta(seconds=60), what="the second attempt")
    before = text(run, "job", attempt=1)

    worker.signal(signal.SIGCONT)
    time.sleep(2)

    assert text(run, "job", attempt=1) == before
    run.cancel()


class TestTheCommand:
    @pytest.mark.shared_worker
    def test_one_document_or_one_a_line(self, fleet: Fleet) -> None:
        fleet.worker()
        run = fleet.submit(Task("job", {"shell": "echo hi"}))
        assert run.wait(timeout=30) is RunState.COMPLETED

        whole, lines = (coord(fleet, "tasks", "logs", "job", "--json", *more) for more in ((), ("-f",)))

        assert (whole.wait(), lines.wait()) == (0, 0)
        piece = {"attempt": 1, "stream": "out", "text": "hi\n", "left_out": 0}
        assert json.loads(whole.output)["pieces"] == [piece]
        assert json.loads(lines.output) == piece

    @pytest.mark.shared_worker
    def test_what_was_never_tried_is_refused_in_one_sentence(self, fleet: Fleet) -> None:
        # The module's worker has limited authority: this task needs more, so that worker cannot claim it.
        run = fleet.submit(Task("first", {"shell": "sleep 600"}), Task("job", {"shell": "echo hi"}, needs=["first"]))

        commands, third = (coord(fleet, "tasks", "logs", "job", *more) for more in ((), ("--attempt", "3")))
        run.cancel()

        assert (commands.wait(), third.wait()) == (2, 2)
        assert commands.output.startswith("coord: job has no attempt yet")
        assert third.output.startswith("coord: job has no attempt 3")
