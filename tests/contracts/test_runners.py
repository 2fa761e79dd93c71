"""Test the contract of every runner, whatever job kind it executes. Real processes only."""

from __future__ import annotations

import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.jobs import Bench
from tests.support.model_server import Answer, Broken, ModelServer, running_model_server
from tests.support.services import without_landlock
from tests.support.speed import patience
from tests.support.strict import strict_sandbox
from workers.runners import orphan_reaper, sandbox_exec
from workers.runners.base import StopReason
from workers.runners.registry import Runners
from workers.runners.sandbox_policy import SandboxPolicy

SHELL = {
    "say": "echo hello",
    "fail": "echo broken >&2; exit 3",
    "wait": "echo ready; sleep 600",
    "tidy": "trap 'echo yes > tidied; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
    "stubborn": "trap '' TERM; echo ready; sleep 600",
    "flood": "head -c 100000000 /dev/zero | tr '\\0' x",
    "not_utf8": "printf 'a\\377\\000b\\n'",
    "leave_child": "sleep 600 & echo done",
    "leave_daemon": "setsid sleep 600 & setsid sleep 601 >/dev/null 2>&1 & sleep 0.1; echo done",
    "leave_forked_daemon": "(setsid sh -c 'sleep 600 & sleep 601' &) ; sleep 0.1; echo done",
    "wait_with_daemon": "setsid sleep 600 & sleep 0.1; echo ready; sleep 600",
    "killed": "kill -9 $$",
    "environment": f"exec {shlex.quote(sys.executable)} -c 'import json, os; print(json.dumps(dict(os.environ)))'",
    "spend": """echo '{"model": "m", "input_tokens": 3, "output_tokens": 1, "cost_usd": 0.10}' >> "$COORD_COSTS" """,
    "spend_and_fail": """echo '{"model": "m", "cost_usd": 0.10}' >> "$COORD_COSTS"; exit 1""",
    "later": "exit 75",
}


CHAT: dict[str, list[Answer]] = {
    "say": ["hello"],
    "fail": [Broken("broken", "error")],
    "wait": [Broken("ready", "hang")],
    "later": [429],
}

NO_CHAT = "a chat is no process: what becomes of its tools', and of its own answers, is in tests/workers/runners"


@dataclass(frozen=True)
class Kind:
    """One job kind, and how its results are read."""

    name: str
    provider: ModelServer | None = None
    in_namespaces: bool = False

    def job(self, what: str, **env: str) -> dict[str, Any]:
        if self.provider is not None:
            if what not in CHAT:
                pytest.skip(NO_CHAT)
            self.provider.answers[:] = CHAT[what]
            return {"chat": "openai:m", "prompt": what, "url": f"{self.provider.url}/v1"}
        work: dict[str, Any] = {
            "shell": {"shell": SHELL[what]},
            "python": {"python": f"job_functions:{what}"},
            "agent": {"agent": "custom", "prompt": "work", "command": ["/bin/sh", "-c", SHELL[what]]},
        }[self.name]
        return work | ({"env": env} if env else {})

    def printed(self, result: AttemptEnd) -> str:
        text = result.log if self.name == "python" else result.output
        assert isinstance(text, str)
        return text


CONFINED, STRICT = " in a sandbox", " in the strict sandbox"


@pytest.fixture(
    params=[
        *("shell", "python", "agent", "chat", f"shell{CONFINED}", f"python{CONFINED}"),
        *(pytest.param(f"{kind}{STRICT}", marks=pytest.mark.full) for kind in ("shell", "python")),
    ]
)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    if request.param != "chat":
        name = request.param.removesuffix(CONFINED).removesuffix(STRICT)
        yield Kind(name, in_namespaces=request.param.endswith(STRICT))
        return
    request.getfixturevalue("_chats_imported")
    with running_model_server([]) as provider:
        yield Kind("chat", provider)


@pytest.fixture(scope="session")
def _chats_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Run a first chat: it imports what all need, which takes longer than the time limits of the tests."""
    runners = Runners()
    with running_model_server(["hello"]) as provider:
        result = Bench(runners, tmp_path_factory.mktemp("chat") / "scratch").run(Kind("chat", provider).job("say"))
    runners.close()
    assert result.outcome is Outcome.COMPLETED


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    confined = request.node.callspec.params["kind"].endswith(CONFINED)
    if confined and not sandbox_exec.version():
        without_landlock()
    sandbox = SandboxPolicy(tmp_path / "scratch", required=True) if confined else None
    if request.node.callspec.params["kind"].endswith(STRICT):
        sandbox = strict_sandbox(tmp_path / "scratch")
    runners = Runners(sandbox=sandbox)
    bench = Bench(runners, tmp_path / "scratch")
    yield bench
    left = bench.left_behind()
    runners.close()
    assert left == []
    assert orphan_reaper.find([os.fsencode(runners.launcher.marker)]) == []
    assert list(bench.scratch.iterdir()) == []


def test_a_job_that_succeeds_is_completed_with_its_output(kind: Kind, bench: Bench) -> None:
    result = bench.run(kind.job("say"))

    assert (result.outcome, result.output, result.error) == (Outcome.COMPLETED, "hello", None)


def test_a_job_that_fails_says_why_in_one_line(kind: Kind, bench: Bench) -> None:
    result = bench.run(kind.job("fail"))

    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert "broken" in result.error
    assert "\n" not in result.error
    assert result.retryable


def test_a_job_that_takes_too_long_is_ended_and_says_so(kind: Kind, bench: Bench) -> None:
    result = bench.run(kind.job("wait"), timeout=timedelta(seconds=1))

    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "timed out after 1 s")
    assert "ready" in kind.printed(result)


def test_a_job_that_stands_still_is_ended_and_says_so(kind: Kind, bench: Bench) -> None:
    result = bench.run(kind.job("wait"), stall_timeout=timedelta(seconds=1))

    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "no output for 1 s")


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (StopReason.CANCELED, Outcome.CANCELED),
        (StopReason.SHUTDOWN, Outcome.HANDED_BACK),
        (StopReason.LEASE_LOST, Outcome.LOST),
    ],
)
def test_a_job_that_is_asked_to_stop_ends_with_that_outcome(
    kind: Kind, bench: Bench, reason: StopReason, outcome: Outcome
) -> None:
    job = bench.start(kind.job("wait"))

    job.stop(reason)

    assert job.end().outcome is outcome


def test_a_job_may_tidy_up_before_it_ends(kind: Kind, bench: Bench, tmp_path: Path) -> None:
    job = bench.start(kind.job("tidy"), workdir=str(tmp_path))

    job.stop(StopReason.CANCELED)

    assert job.end().outcome is Outcome.CANCELED
    assert (tmp_path / "tidied").read_text().strip() == "yes"


def test_a_job_that_ignores_the_request_is_killed_after_the_grace(kind: Kind, bench: Bench) -> None:
    job = bench.start(kind.job("stubborn"), control={"cancel_grace": timedelta(milliseconds=300)})

    job.stop(StopReason.CANCELED)

    assert job.end().outcome is Outcome.CANCELED


def test_a_lost_lease_cuts_short_the_grace_of_a_job_that_is_ending(kind: Kind, bench: Bench) -> None:
    job = bench.start(kind.job("stubborn"), control={"cancel_grace": timedelta(minutes=10)})
    job.stop(StopReason.SHUTDOWN)

    job.stop(StopReason.LEASE_LOST)

    assert job.end().outcome is Outcome.LOST


def test_a_job_is_not_begun_after_it_was_asked_to_stop(kind: Kind, bench: Bench) -> None:
    job = bench.start(kind.job("say"), stopped=StopReason.CANCELED)

    assert job.end().outcome is Outcome.CANCELED
    assert job.processes == []


def test_output_without_end_is_kept_in_bounded_memory_and_the_cut_is_shown(kind: Kind, bench: Bench) -> None:
    bench.run(kind.job("say"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    result = bench.run(kind.job("flood"), control={"output_limit": 10_000})

    assert result.outcome is Outcome.COMPLETED
    assert "… 99,990,000 bytes left out …" in kind.printed(result)
    assert len(kind.printed(result)) < 11_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_output_that_is_no_text_becomes_text(kind: Kind, bench: Bench) -> None:
    result = bench.run(kind.job("not_utf8"))

    assert kind.printed(result).rstrip("\n") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("what", ["leave_child", "leave_daemon", "leave_forked_daemon"])
def test_processes_that_a_finished_job_left_are_ended_with_it(kind: Kind, bench: Bench, what: str) -> None:
    began = time.monotonic()

    result = bench.run(kind.job(what))

    assert (result.outcome, result.output) == (Outcome.COMPLETED, "done")
    assert bench.left_behind() == []
    assert time.monotonic() - began < patience(10)


@pytest.mark.parametrize("reason", [StopReason.CANCELED, StopReason.LEASE_LOST])
def test_processes_that_left_the_group_of_a_stopped_job_are_ended_with_it(
    kind: Kind, bench: Bench, reason: StopReason
) -> None:
    job = bench.start(kind.job("wait_with_daemon"))

    job.stop(reason)

    job.end()
    assert bench.left_behind() == []


def test_a_job_killed_by_a_signal_failed_and_names_it(kind: Kind, bench: Bench) -> None:
    result = bench.run(kind.job("killed"))

    if kind.in_namespaces:  # in a shell's words: the worker is not the parent of the job's program
        assert (result.outcome, result.exit_code) == (Outcome.FAILED, 128 + 9)
        assert "exit status 137" in (result.error or "")
        return
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, -9)
    assert result.error == "killed by SIGKILL (out of memory?)"


def test_a_job_sees_who_it_is_and_nothing_of_the_workers_secrets(
    kind: Kind, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COORD_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LC_TIME", "C")
    job = bench.start(kind.job("environment", MY_SETTING="mine"))

    result = job.end()

    seen = json.loads(result.output) if isinstance(result.output, str) else result.output
    assert isinstance(seen, dict)
    assert not {"COORD_DATABASE_URL", "AWS_SECRET_ACCESS_KEY"} & seen.keys()
    assert {name: seen[name] for name in ("COORD_TASK_ID", "COORD_ATTEMPT", "COORD_PROJECT", "COORD_AGENT")} == {
        "COORD_TASK_ID": job.claim.task_id,
        "COORD_ATTEMPT": "1",
        "COORD_PROJECT": "shop",
        "COORD_AGENT": "dave/vc",
    }
    assert (seen["COORD_RUN_ID"], seen["COORD_TASK_KEY"], seen["MY_SETTING"]) == ("run", "fix", "mine")
    assert seen["LC_TIME"] == "C"


@pytest.mark.parametrize(("what", "outcome"), [("spend", Outcome.COMPLETED), ("spend_and_fail", Outcome.FAILED)])
def test_what_was_spent_is_reported_however_the_job_ends(kind: Kind, bench: Bench, what: str, outcome: Outcome) -> None:
    result = bench.run(kind.job(what))

    assert result.outcome is outcome
    assert [(usage.model, usage.cost_usd) for usage in result.usage] == [("m", Decimal("0.10"))]


def test_a_job_may_ask_to_be_tried_later(kind: Kind, bench: Bench) -> None:
    assert bench.run(kind.job("later")).outcome is Outcome.DEFERRED


def test_a_started_job_says_which_process_it_is_and_that_it_moves(kind: Kind, bench: Bench) -> None:
    job = bench.start(kind.job("wait"))
    assert job.moved.wait(patience(60))
    if kind.provider is not None:
        job.stop(StopReason.CANCELED)
        assert job.end().outcome is Outcome.CANCELED
        pytest.skip(NO_CHAT)

    (process,) = job.processes

    assert orphan_reaper.start_time(process.pid) == process.start_time
    assert os.getpgid(process.pid) == process.pgid
    job.stop(StopReason.CANCELED)
    job.end()


def test_a_missing_folder_is_refused_for_good(kind: Kind, bench: Bench, tmp_path: Path) -> None:
    result = bench.run(kind.job("say"), workdir=str(tmp_path / "nowhere"))

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert "nowhere does not exist" in (result.error or "")


def test_a_file_in_place_of_the_folder_is_refused_for_good(kind: Kind, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    result = bench.run(kind.job("say"), workdir=str(tmp_path / "file"))

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert "file is not a folder" in (result.error or "")


def test_a_folder_that_may_not_be_entered_is_refused_for_good(
    kind: Kind, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    real = os.access  # root may enter everything
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != f"{closed}/." and real(path, mode))

    result = bench.run(kind.job("say"), workdir=str(closed))

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert "closed may not be entered" in (result.error or "")


def test_a_setting_that_no_environment_can_hold_is_refused_for_good(kind: Kind, bench: Bench) -> None:
    result = bench.run(kind.job("say") | {"env": {"A": "nul\0inside"}})

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)


def test_jobs_end_as_well_where_the_system_has_no_pidfd(
    kind: Kind, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(pid: int, flags: int = 0) -> int:
        raise PermissionError(1, "forbidden by the container")

    monkeypatch.setattr(os, "pidfd_open", forbidden)

    assert bench.run(kind.job("say")).output == "hello"
    assert bench.run(kind.job("leave_daemon")).output == "done"
    assert bench.run(kind.job("wait_with_daemon"), timeout=timedelta(seconds=1)).outcome is Outcome.TIMED_OUT
