"""Test Python jobs: values in and out, errors, and that no effect of one function reaches the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from workers.runners import orphan_reaper


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"python": f"job_functions:{name}", "args": args}


class TestValues:
    def test_the_function_gets_its_arguments_and_its_value_is_the_output(self, bench: Bench) -> None:
        result = bench.run(call("say", text={"a": [1, None, "ü"]}))

        assert result.output == {"a": [1, None, "ü"]}

    def test_parameters_named_input_and_needs_are_filled_in(self, bench: Bench) -> None:
        result = bench.run(call("given"), input={"a": 1}, needs={"n": {"output": 2}})

        assert result.output == {"needs": {"n": {"output": 2}}, "input": {"a": 1}, "extra": 1}

    def test_an_argument_of_the_plan_wins_over_input_and_needs(self, bench: Bench) -> None:
        result = bench.run(call("given", needs="mine", extra=2), input={"a": 1})

        assert result.output == {"needs": "mine", "input": {"a": 1}, "extra": 2}

    def test_a_coroutine_function_is_run_to_its_end(self, bench: Bench) -> None:
        assert bench.run(call("slowly")).output == "slept"

    def test_texts_that_no_database_takes_are_cleaned(self, bench: Bench) -> None:
        assert bench.run(call("value", kind="odd")).output == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("nan", "returned what JSON cannot hold"),
            ("object", "returned what JSON cannot hold"),
            ("huge", "at most 262,144 bytes are kept"),
        ],
    )
    def test_a_value_that_cannot_be_kept_fails_for_good(self, bench: Bench, kind: str, words: str) -> None:
        result = bench.run(call("value", kind=kind))

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert words in (result.error or "")

    def test_what_it_prints_is_the_log(self, bench: Bench) -> None:
        assert bench.run(call("say")).log == "said hello\n"

    def test_the_log_of_a_job_is_its_own(self, bench: Bench) -> None:
        bench.run(call("say", text="first"))

        assert bench.run(call("say", text="second")).log == "said second\n"


class TestRefusals:
    @pytest.mark.parametrize(
        ("work", "words"),
        [
            ({"python": "no_such_module:f"}, "There is no module 'no_such_module'"),
            ({"python": "job_functions.inner:f"}, "There is no module"),
            ({"python": "job_functions:fial"}, "did you mean 'fail'?"),
            ({"python": "job_functions:sys"}, "is not a function"),
            ({"python": "job_functions:given", "args": {"wrong": 1}}, "got an unexpected keyword argument 'wrong'"),
            ({"python": "job_functions:leave"}, "missing a required argument: 'code'"),
            ({"python": "job_functions:numbers"}, "is a generator function"),
        ],
    )
    def test_a_call_that_can_never_work_fails_for_good_in_one_sentence(
        self, bench: Bench, work: dict[str, Any], words: str
    ) -> None:
        result = bench.run(work)

        assert (result.outcome, result.retryable, result.log) == (Outcome.FAILED, False, None)
        assert words in (result.error or "")

    def test_a_module_that_fails_to_import_may_be_tried_again(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text("import missing_dependency\n")

        result = bench.run({"python": "broken:f"}, workdir=str(tmp_path))

        assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
        assert result.error == "ModuleNotFoundError: No module named 'missing_dependency'"


class TestErrors:
    def test_an_exception_is_one_line_and_its_traceback_the_log(self, bench: Bench) -> None:
        result = bench.run(call("fail"))

        assert result.error == "ValueError: broken on two lines"
        assert "Traceback (most recent call last)" in (result.log or "")
        assert "job_functions.py" in (result.log or "")
        assert "child.py" not in (result.log or "")

    @pytest.mark.parametrize(
        ("work", "error", "exit_code"),
        [
            (call("exit_with", code=3), "exit status 3", 3),
            (call("exit_with", code="words"), "words", 1),
            (call("leave", code=3), "its process ended with exit status 3 before the function returned", 3),
            (call("out_of_memory"), "MemoryError", None),
            (call("raise_base"), "KeyboardInterrupt", None),
            (call("unreadable_error"), "Odd: (its text cannot be shown)", None),
        ],
    )
    def test_every_way_to_fail_is_told_apart(
        self, bench: Bench, work: dict[str, Any], error: str, exit_code: int | None
    ) -> None:
        result = bench.run(work)

        assert (result.outcome, result.error, result.exit_code) == (Outcome.FAILED, error, exit_code)
        assert bench.run(call("say")).output == "hello"

    def test_endless_recursion_fails_with_a_bounded_log(self, bench: Bench) -> None:
        result = bench.run(call("recurse"))

        assert (result.error or "").startswith("RecursionError: ")
        assert len(result.log or "") < 40_000

    def test_a_crash_names_the_signal_and_keeps_what_was_printed(self, bench: Bench) -> None:
        result = bench.run(call("crash"))

        assert (result.outcome, result.exit_code, result.error) == (Outcome.FAILED, -11, "killed by SIGSEGV")
        assert (result.log or "").startswith("before the crash\n")
        assert "Segmentation fault" in (result.log or "")
        assert bench.run(call("say")).output == "hello"

    def test_leaving_with_status_0_is_success_and_with_75_a_request_to_wait(self, bench: Bench) -> None:
        assert bench.run(call("exit_with", code=0)).outcome is Outcome.COMPLETED
        assert bench.run(call("exit_with", code=75)).outcome is Outcome.DEFERRED
        assert bench.run(call("leave", code=75)).outcome is Outcome.DEFERRED

    def test_a_job_that_was_stopped_shows_where_it_stood(self, bench: Bench) -> None:
        result = bench.run(call("wait"), timeout=timedelta(seconds=1))

        assert "in wait" in (result.log or "")


class TestNeighbours:
    def test_jobs_share_a_process(self, bench: Bench) -> None:
        assert bench.run(call("pid")).output == bench.run(call("pid")).output

    def test_what_a_job_changes_around_it_is_undone(self, bench: Bench, tmp_path: Path) -> None:
        before = bench.run(call("surroundings"), workdir=str(tmp_path)).output
        changed = bench.run(call("change_everything"), workdir=str(tmp_path)).output

        after = bench.run(call("surroundings"), workdir=str(tmp_path)).output

        assert changed == before["pid"]
        assert after == before
        assert (after["cwd"], after["left_behind"], after["path_set"]) == (str(tmp_path), None, True)

    @pytest.mark.parametrize("what", ["leave_thread", "change_handler", "close_output"])
    def test_a_process_that_cannot_be_restored_is_not_used_again(self, bench: Bench, what: str) -> None:
        spoiled = bench.run(call(what)).output

        assert bench.run(call("pid")).output != spoiled
        assert not orphan_reaper.is_running(spoiled)

    def test_a_copy_that_returns_does_not_answer_for_the_original(self, bench: Bench) -> None:
        assert bench.run(call("fork_and_return")).output == ["from the original", 0]
        assert bench.run(call("say")).output == "hello"

    def test_programs_that_a_job_starts_do_not_hold_its_channel(self, bench: Bench) -> None:
        assert "socket:" not in bench.run(call("files_of_a_program")).output

    def test_copies_that_a_job_makes_of_its_process_do_not_hold_its_channel(self, bench: Bench) -> None:
        assert bench.run(call("sockets_of_a_copy")).output == 0

    def test_jobs_with_other_settings_have_processes_of_their_own(self, bench: Bench) -> None:
        first = bench.run(call("pid")).output

        assert bench.run(call("pid") | {"env": {"A": "1"}}).output != first

    @pytest.mark.parametrize("package", [False, True])
    def test_a_module_that_was_changed_is_imported_anew(self, bench: Bench, tmp_path: Path, package: bool) -> None:  # noqa: FBT001
        where = tmp_path / "inner" if package else tmp_path
        where.mkdir(exist_ok=True)
        (where / "part.py").write_text("VALUE = 1\n")
        source = "from inner import part" if package else "import part"
        (tmp_path / "whole.py").write_text(f"{source}\ndef f():\n    return part.VALUE\n")
        old = [bench.run({"python": "whole:f"}, workdir=str(tmp_path)).output for _ in range(2)]
        (where / "part.py").write_text("VALUE = 2\n")

        new = bench.run({"python": "whole:f"}, workdir=str(tmp_path)).output

        assert (old, new) == ([1, 1], 2)

    def test_no_files_are_left_in_the_jobs_folder(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "part.py").write_text("def f(): pass\n")

        bench.run({"python": "part:f"}, workdir=str(tmp_path))

        assert [path.name for path in tmp_path.iterdir() if path != bench.scratch] == ["part.py"]

    def test_the_interpreter_imports_nothing_heavy(self, bench: Bench) -> None:
        loaded = set(bench.run({"python": "job_functions:modules"}).output)

        assert not loaded & {"celery", "kombu", "sqlalchemy", "pydantic", "redis"}

    def test_the_child_itself_needs_the_standard_library_only(self) -> None:
        import ast

        source = Path(sys.modules["workers.runners.interpreter"]._PROGRAM).read_text()
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(source))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }

        assert imported <= sys.stdlib_module_names | {"_signal"}


def test_the_worker_does_not_collect_descriptors(bench: Bench) -> None:
    def open_now() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    works: list[Callable[[], object]] = [
        lambda: bench.run(call("say")),
        lambda: bench.run(call("crash")),
        lambda: bench.run({"shell": "echo x"}),
        lambda: bench.run({"python": "no_such_module:f"}),
    ]
    for work in works:
        work()
    before = open_now()

    for work in works * 3:
        work()

    assert open_now() == before
    assert os.getpid() not in bench.left_behind()
