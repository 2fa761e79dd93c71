"""Test when samples show that a consumer has stopped, and which command a restarting process executes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from workers.process import restart
from workers.process.consumer_watchdog import ConsumerCheck, ConsumerSample


def judge(*samples: ConsumerSample, patience: float = 10.0) -> list[float | None]:
    check = ConsumerCheck(patience=patience, pause=1.0)
    return [check.silent_seconds(sample) for sample in samples]


def silence(first: int, last: int, **changes: object) -> list[ConsumerSample]:
    """Take one sample a second of a worker with free slots and waiting tasks that receives nothing."""
    fields = {"messages": 7, "has_free_slot": True, "waiting": 3, **changes}
    return [ConsumerSample(at=float(second), **fields) for second in range(first, last)]  # type: ignore[arg-type]


class TestJudge:
    def test_it_is_deaf_after_its_patience_and_no_sooner(self) -> None:
        answers = judge(*silence(0, 13))

        assert answers == [None] * 10 + [10.0, 11.0, 12.0]

    @pytest.mark.parametrize(
        "proof",
        [
            {"messages": 8},
            {"has_free_slot": False, "waiting": None},
            {"waiting": 0},
            {"waiting": None},  # Redis or the database did not answer
        ],
    )
    def test_one_sign_of_anything_else_begins_the_wait_anew(self, proof: dict[str, object]) -> None:
        then = {"messages": proof.get("messages", 7)}

        answers = judge(*silence(0, 9), *silence(9, 10, **proof), *silence(10, 18, **then))

        assert answers == [None] * 18

    def test_full_slots_and_an_empty_queue_never_count(self) -> None:
        assert set(judge(*silence(0, 60, has_free_slot=False, waiting=None))) == {None}
        assert set(judge(*silence(0, 60, waiting=0))) == {None}

    def test_a_process_that_was_stopped_itself_is_not_deaf(self) -> None:
        before, after = silence(0, 3), silence(600, 605)

        assert judge(*before, *after) == [None] * 8

    def test_a_worker_that_hears_is_not_deaf_however_much_waits(self) -> None:
        looks = [
            ConsumerSample(at=float(second), messages=second // 5, has_free_slot=True, waiting=1_000)
            for second in range(60)
        ]

        assert set(judge(*looks)) == {None}


class TestStartingAnew:
    @pytest.mark.parametrize("module", ["workers.__main__", "celery.__main__"])
    def test_a_worker_becomes_its_own_command_again(self, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
        monkeypatch.setattr(sys, "orig_argv", ["python3", "-P", "-m", module.partition(".")[0], "-c", "4"])
        main = SimpleNamespace(__spec__=SimpleNamespace(name=module))

        assert restart.command(main) == [sys.executable, "-P", "-m", module.partition(".")[0], "-c", "4"]

    @pytest.mark.parametrize(("script", "is_ours"), [("/usr/bin/celery", True), ("/srv/app/manage.py", False)])
    def test_a_script_counts_by_its_name(
        self,
        monkeypatch: pytest.MonkeyPatch,
        script: str,
        is_ours: bool,  # noqa: FBT001 - a parameter
    ) -> None:
        monkeypatch.setattr(sys, "argv", [script, "worker"])
        monkeypatch.setattr(sys, "orig_argv", ["python3", script, "worker"])

        assert restart.command(SimpleNamespace(__spec__=None)) == (
            [sys.executable, script, "worker"] if is_ours else None
        )

    def test_somebodys_program_that_holds_a_worker_becomes_nothing(self) -> None:
        assert restart.command(SimpleNamespace(__spec__=SimpleNamespace(name="pytest.__main__"))) is None
