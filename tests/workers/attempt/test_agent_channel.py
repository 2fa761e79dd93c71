"""Test the socket on which jobs report: tokens, malformed input, limits, and the effect of a report on a result."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from coordination import job
from coordination.base.clock import monotonic
from coordination.base.errors import Refused
from coordination.domain.tasks.attempts import AttemptEnd, Claim, DiscoveredTask, Outcome
from tests.support.jobs import claim_of
from workers.attempt import report_socket
from workers.attempt.folders import AttemptFolders
from workers.attempt.steps import agent_channel
from workers.attempt.steps.agent_channel import AgentChannelStep, JobReports
from workers.runners import environment, orphan_reaper
from workers.runners.base import Control, ProcessRecord
from workers.runners.secret_masking import Secrets

DONE = AttemptEnd(Outcome.COMPLETED, output="its own", exit_code=0)


class ChannelSite:
    """The agent channel of a worker, and one attempt that may report on it."""

    def __init__(self, folder: Path) -> None:
        self.added: list[tuple[DiscoveredTask, ...]] = []
        self.events: list[Mapping[str, Any]] = []
        self.folders = AttemptFolders(folder)
        self.channel = AgentChannelStep(self._add, lambda claim: f"token of {claim.task_id}", self.folders)
        self.control = Control(scratch=folder, on_event=lambda _, payload: self.events.append(payload))
        self.control.note_start(ProcessRecord(os.getpid(), os.getpid(), 0, "X=y"))

    @contextlib.contextmanager
    def of(self, claim: Claim, control: Control | None = None) -> Iterator[JobReports]:
        """Provide the channel of an attempt that runs until the end of the block."""
        control = control or self.control
        with self.folders.make(claim) as control.scratch, self.channel.open(claim, control) as report:
            yield report

    def close(self) -> None:
        self.channel.close()
        self.folders.close()

    def _add(self, _claim: Claim, found: tuple[DiscoveredTask, ...]) -> Mapping[str, str]:
        if found[0].task.get("key") == "bad":
            raise Refused("It cannot be added", hint="Find another")
        if found[0].task.get("key") == "bug":
            raise KeyError("nobody thought of it")
        self.added.append(found)
        return {str(one.task["key"]): "id" for one in found}

    def send(self, line: bytes) -> Any:
        assert self.control.report_address is not None
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            job._connect(connection, self.control.report_address.url.removeprefix("unix:"))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").readline()
        return json.loads(answer)

    def say(self, do: object, **said: Any) -> Any:
        assert self.control.report_address is not None
        return self.send(json.dumps({"token": self.control.report_address.token, "do": do, **said}).encode() + b"\n")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ChannelSite]:
    created = ChannelSite(tmp_path)
    yield created
    created.close()


@pytest.fixture
def report(site: ChannelSite) -> Iterator[JobReports]:
    with site.of(claim_of({"agent": "claude", "prompt": "x", "model": "m"})) as created:
        yield created


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"rubbish\n", b"[]\n", b"{}\n", b'{"token": 5}\n', b'{"token": "x", "do": "ask"}\n', b"\xff\xfe\n"],
)
def test_garbage_is_answered_in_a_sentence(site: ChannelSite, report: JobReports, line: bytes) -> None:
    if not line:
        with pytest.raises(ValueError, match="Expecting value"):  # No request was sent, so there is no response.
            site.send(line)
        return
    answer = site.send(line)
    assert answer["ok"] is False
    assert answer["error"]
    assert site.say("progress", text="still here") == {"ok": True}


def test_what_is_too_long_is_refused(site: ChannelSite, report: JobReports) -> None:
    assert "megabyte" in site.say("progress", text="x" * report_socket.LONGEST_REQUEST)["error"]
    assert site.say("ask", question="x" * 20_001)["ok"] is False
    assert report.question is None


def test_a_line_is_good_for_as_long_as_its_attempt(site: ChannelSite, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.of(claim_of({"shell": "true"})):
        line = site.control.report_address
        assert line is not None
        monkeypatch.setenv("COORD_URL", line.url)
        monkeypatch.setenv("COORD_TOKEN", line.token)
        job.progress("x")
    with pytest.raises(job.NotReported, match="this attempt or its worker has ended"):
        job.progress("x")
    assert site.control.report_address is None


def test_no_socket_is_opened_for_a_job_that_does_not_ask_where_to_report(site: ChannelSite, tmp_path: Path) -> None:
    threads = threading.active_count()
    with site.of(claim_of({"chat": "openai:x", "prompt": "x"})):
        assert [list(folder.iterdir()) for folder in tmp_path.iterdir()] == [[]]
        assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


def test_each_attempt_has_a_socket_in_its_own_folder_and_one_thread_listens_on_all(
    site: ChannelSite, tmp_path: Path
) -> None:
    threads = threading.active_count()
    with contextlib.ExitStack() as stack:
        lines = []
        for _ in range(20):
            control = Control(scratch=tmp_path)
            stack.enter_context(site.of(claim_of({"shell": "true"}), control))
            assert control.report_address is not None
            lines.append(control.report_address)
        sockets = [Path(line.url.removeprefix("unix:")) for line in lines]
        assert sorted(path.parent.name for path in sockets) == sorted(path.name for path in tmp_path.iterdir())
        assert {stat.S_IMODE(path.parent.stat().st_mode) for path in sockets} == {0o700}
        assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}
        assert len({line.token for line in lines}) == 20
        assert threading.active_count() == threads + 1
    assert list(tmp_path.iterdir()) == []


def test_a_token_counts_on_the_socket_of_its_own_attempt_only(site: ChannelSite, report: JobReports) -> None:
    other = Control(scratch=site.control.scratch)
    with site.of(claim_of({"shell": "true"}), other):
        assert other.report_address is not None
        mine = site.control.report_address
        assert mine is not None
        request = {"token": other.report_address.token, "do": "progress", "text": "x"}
        wrong = site.send(json.dumps(request).encode() + b"\n")

        assert "not of the attempt" in wrong["error"]
        assert site.events == []
    assert site.say("progress", text="x") == {"ok": True}


def test_a_folder_goes_with_its_attempt_whatever_the_job_left_there(site: ChannelSite, tmp_path: Path) -> None:
    with site.folders.make(claim_of({"shell": "true"})) as own:
        deep = own / "deep"
        deep.mkdir()
        (deep / "file").write_text("x")
        deep.chmod(0o500)
        (own / "link").symlink_to("/etc")
    assert list(tmp_path.iterdir()) == []


def test_nobody_reports_without_end(site: ChannelSite, report: JobReports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_channel, "MOST_REPORTS", 3)

    answers = [site.say("progress", text=str(number))["ok"] for number in range(5)]

    assert answers == [True, True, True, False, False]
    assert len(site.events) == 3


def test_what_is_said_twice_in_a_row_is_told_once(site: ChannelSite, report: JobReports) -> None:
    moved: list[bool] = []
    site.control.progress = lambda: moved.append(True)

    for text, percent in (("a", 1), ("a", 1), ("a", 2), ("b", 2), ("a", 1)):
        assert site.say("progress", text=text, percent=percent)["ok"]

    assert [(event["text"], event["percent"]) for event in site.events] == [("a", 1), ("a", 2), ("b", 2), ("a", 1)]
    assert moved == [True]  # it counts as a sign of life


def test_a_question_waits_with_what_was_left_for_the_next_attempt(site: ChannelSite, report: JobReports) -> None:
    assert site.say("ask", question="Why?") == {"ok": True, "end": True}

    settled = report.settle(AttemptEnd(Outcome.FAILED, error="killed by its own hand", carry_over={"x": 1}))

    assert (settled.question, dict(settled.carry_over)) == ("Why?", {"feedback": None, "x": 1})
    assert report.settle(AttemptEnd(Outcome.LOST)) == AttemptEnd(Outcome.LOST)
    assert report.settle(AttemptEnd(Outcome.CANCELED)).question is None


def test_an_escalation_is_a_question_to_somebody_else_and_the_last_word_counts(
    site: ChannelSite, report: JobReports
) -> None:
    assert site.say("escalate", why="May I?") == {"ok": True, "end": True}
    settled = report.settle(DONE)
    assert (settled.question, settled.escalated) == ("May I?", True)

    site.say("ask", question="Which?")
    settled = report.settle(DONE)
    assert (settled.question, settled.escalated) == ("Which?", False)
    assert site.say("escalate")["ok"] is False
    assert site.say("escalate", why="x" * 20_001)["ok"] is False


def test_work_is_given_to_another_agent_with_a_prompt_that_is_no_template(
    site: ChannelSite, report: JobReports
) -> None:
    text = {"key": "p", "to": "bob", "prompt": "Mend {{ it }}", "title": "It", "needs": ["a"], "agent": "eve"}
    assert site.say("delegate", **text)["ids"] == {"p": "id"}

    ((result,),) = site.added
    run = {"agent": "bob", "prompt": "Mend {{ '{{' }} it }}"}
    assert (result.task, result.delegated) == ({"key": "p", "title": "It", "needs": ["a"], "run": run}, True)
    assert result.work == report.claim.work
    for missing in ("to", "prompt"):
        assert site.say("delegate", **{**text, missing: " "})["ok"] is False
    assert len(site.added) == 1


def test_what_comes_first_is_added_at_once_and_waited_for(site: ChannelSite, report: JobReports) -> None:
    task = {"key": "p", "run": {"shell": "true"}}

    assert site.say("discovered", tasks=[task], first=True) == {"ok": True, "ids": {"p": "id"}, "end": True}
    assert site.say("discovered", tasks=[{**task, "key": "bad"}], first=True)["hint"] == "Find another"

    site.say("discovered", tasks=[task], first=True)
    (discovered,) = report.settle(DONE).discovered
    assert (discovered.task, discovered.blocks_finder) == (task, True)


def test_a_bug_of_ours_is_a_sentence_to_the_job_and_the_next_report_counts(
    site: ChannelSite, report: JobReports
) -> None:
    assert "the reason is in its log" in site.say("discovered", tasks=[{"key": "bug"}])["error"]
    assert site.say("progress", text="still here") == {"ok": True}


def test_found_work_with_a_prompt_only_is_for_an_agent_like_this_one(site: ChannelSite, report: JobReports) -> None:
    site.say("discovered", tasks=[{"key": "p", "run": {"prompt": "Mend {{ it }}"}}])

    ((result,),) = site.added
    assert result.task == {
        "key": "p",
        "run": {"agent": "claude", "prompt": "Mend {{ '{{' }} it }}", "model": "m"},
        "agent": "dave/vc",
    }
    assert report.settle(DONE) == DONE


@pytest.mark.parametrize("tasks", [None, [], {}, ["x"], [{}, 5]])
def test_found_work_is_a_list_of_tasks(site: ChannelSite, report: JobReports, tasks: Any) -> None:
    assert site.say("discovered", tasks=tasks)["ok"] is False
    assert site.added == []


def test_its_own_judgement_goes_before_its_exit_status(site: ChannelSite, report: JobReports) -> None:
    site.say("done", output={"made": 1})
    assert report.settle(DONE).output == {"made": 1}
    assert report.settle(AttemptEnd(Outcome.FAILED, error="exit status 1")).outcome is Outcome.FAILED

    site.say("fail", why="no way", final=True)

    settled = report.settle(DONE)
    assert (settled.outcome, settled.error, settled.retryable) == (Outcome.FAILED, "no way", False)
    assert report.settle(AttemptEnd(Outcome.TIMED_OUT)).outcome is Outcome.TIMED_OUT


def test_a_place_that_is_too_long_for_a_socket_is_no_problem(tmp_path: Path) -> None:
    root = tmp_path / ("x" * 120)
    root.mkdir()
    site = ChannelSite(root)
    with site.of(claim_of({"shell": "true"})):
        assert site.say("progress", text="x")["ok"]
        assert "reports.sock" in [path.name for folder in root.iterdir() for path in folder.iterdir()]
    site.close()


def test_it_tells_what_the_task_is(site: ChannelSite, report: JobReports) -> None:
    assert site.say("context")["task"] == {"key": "fix", "title": "Fix it", "attempt": 1, "input": {}}


def test_it_is_closed_at_once_although_nobody_reports(site: ChannelSite, report: JobReports) -> None:
    closing = threading.Thread(target=site.channel.close)

    closing.start()
    closing.join(20)  # a third of the time that it would wait otherwise

    assert not closing.is_alive()


class TestNews:
    def test_the_answer_to_a_report_says_what_the_job_should_know(self, site: ChannelSite, report: JobReports) -> None:
        news = iter(["Others have merged", None])
        site.control.news = lambda: next(news)

        assert site.say("progress", text="x") == {"ok": True, "news": "Others have merged"}
        assert site.say("progress", text="y") == {"ok": True}

    def test_what_ends_a_job_is_not_held_up_by_it(self, site: ChannelSite, report: JobReports) -> None:
        site.control.news = lambda: "news"

        assert site.say("ask", question="why?") == {"ok": True, "end": True}
        assert site.say("fail", why="x") == {"ok": True, "end": True}


CLIENT = """
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(json.dumps({"token": sys.argv[2], "do": "progress", "text": "x"}).encode() + b"\\n")
print(connection.makefile().readline())
"""

IDLE = """
import socket, sys
held = []
for number in range(int(sys.argv[2])):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(5)
    try:
        one.connect(sys.argv[1])
        if number % 2:
            one.sendall(b"{")
        held.append(one)
    except OSError:
        pass
print("held", flush=True)
sys.stdin.read()
"""


def from_another_process(site: ChannelSite, **env: str) -> Any:
    """Send a request with the attempt's token from a process in another process session, and return the response."""
    assert site.control.report_address is not None
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CLIENT,
            site.control.report_address.url.removeprefix("unix:"),
            site.control.report_address.token,
        ],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        start_new_session=True,
    )
    return json.loads(done.stdout)


def test_a_token_counts_only_from_processes_of_its_attempt(site: ChannelSite, report: JobReports) -> None:
    mark = environment.attempt_prefix(report.claim.task_id, report.claim.attempt)

    assert "belongs to another attempt" in from_another_process(site)["error"]
    assert "belongs to another attempt" in from_another_process(site, **{environment.MARKER: "other.1.x"})["error"]
    assert site.events == []
    assert from_another_process(site, **{environment.MARKER: f"{mark}x"}) == {"ok": True}


def test_who_is_in_the_session_of_another_attempt_does_not_speak_for_this_one(
    site: ChannelSite, report: JobReports
) -> None:
    with site.of(claim_of({"shell": "true"}), Control(scratch=site.control.scratch)) as other:
        other.control.note_start(ProcessRecord(os.getpid(), os.getpid(), 0, "X=y"))
        site.control.process = None
        assert "belongs to another attempt" in site.say("progress", text="x")["error"]


def test_idle_connections_of_one_job_keep_no_other_from_reporting(site: ChannelSite, report: JobReports) -> None:
    assert site.control.report_address is not None
    address = site.control.report_address.url.removeprefix("unix:")
    with orphan_reaper.set_tag(orphan_reaper.job_tag(orphan_reaper.worker_tag("X=idle"), 1)):
        idle = subprocess.Popen(
            [sys.executable, "-c", IDLE, address, "150"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    with idle:
        assert idle.stdout is not None
        assert idle.stdout.readline() == "held\n"
        began = monotonic()
        assert site.say("progress", text="x") == {"ok": True}
        assert monotonic() - began < report_socket.FIRST_LINE
        assert idle.stdin is not None
        idle.stdin.close()


def test_who_says_nothing_is_left_soon_and_many_reports_of_one_job_are_all_taken(
    site: ChannelSite, report: JobReports
) -> None:
    assert site.control.report_address is not None
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(20)
        silent.connect(site.control.report_address.url.removeprefix("unix:"))
        began = monotonic()
        assert silent.recv(1) == b""
        assert monotonic() - began < report_socket.FIRST_LINE + 5

    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(site.say("progress", text="x"))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [{"ok": True}] * 30


@pytest.mark.parametrize("do", [["progress"], {"progress": 1}, None, 5, "x" * 100_000])
def test_what_is_no_verb_is_refused_in_a_sentence_and_is_no_bug(
    site: ChannelSite, report: JobReports, do: object
) -> None:
    answer = site.say(do)

    assert answer["error"].startswith("A job cannot report ")
    assert len(answer["error"]) < 200


@pytest.mark.parametrize("name", ["text", "percent", "else"])
@pytest.mark.parametrize("levels", [101, 400, 900])
def test_a_report_that_nests_deeply_is_refused_also_where_secrets_are_looked_for(
    site: ChannelSite, report: JobReports, name: str, levels: int
) -> None:
    site.control.secrets = Secrets(environ={"MY_TOKEN": "sk-0123456789"}, named=["MY_TOKEN"])

    answer = site.say("progress", **{"text": "x", name: json.loads("[" * levels + "]" * levels)})

    assert "nests deeper than 100 levels" in answer["error"]
    assert site.say("progress", text="still here") == {"ok": True}
