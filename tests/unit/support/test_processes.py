"""Test the tests' own tools: a wait that cannot hang, and a leak that is detected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta

import psutil
import pytest

from tests.support.processes import Processes, leftovers, mark_descendants, until

SOON = timedelta(seconds=0.2)
SLEEPER = "import signal; print('up', flush=True); signal.pause()"


class TestWaiting:
    def test_a_line_is_awaited_not_polled_for(self, processes: Processes) -> None:
        process = processes.start_python("-c", "print('one'); print('two 2')")

        match = process.wait_for(r"^two (\d)$")

        assert match.group(1) == "2"

    def test_a_process_that_ends_before_its_line_is_named_with_what_it_said(self, processes: Processes) -> None:
        process = processes.start_python("-c", "print('sorry'); raise SystemExit(3)")

        with pytest.raises(AssertionError, match=r"(?s)ended with 3 before saying 'ready'.*sorry"):
            process.wait_for("ready")

    def test_a_line_that_never_comes_ends_in_an_error(self, processes: Processes) -> None:
        process = processes.start_python("-c", SLEEPER)
        process.wait_for("up")

        with pytest.raises(AssertionError, match=r"did not say 'down' within 0.2 s"):
            process.wait_for("down", within=SOON)

    def test_readiness_comes_through_the_pipe(self, processes: Processes) -> None:
        announce = "import os; os.write(int(os.environ['COORD_READY_FD']), b'ready\\n'); "
        process = processes.start_python("-c", announce + SLEEPER, announces=True)

        process.wait_until_ready()

        assert process.stop() == -signal.SIGTERM

    def test_a_process_that_ends_before_it_is_ready_does_not_make_the_test_wait(self, processes: Processes) -> None:
        process = processes.start_python("-c", "print('no database')", announces=True)

        with pytest.raises(AssertionError, match="closed its pipe before it was ready"):
            process.wait_until_ready()

    def test_a_condition_that_never_holds_ends_in_an_error(self) -> None:
        with pytest.raises(AssertionError, match=r"the moon: not within 0.2 s"):
            until(lambda: False, within=SOON, what="the moon")


class TestLeftovers:
    def test_a_process_that_detached_itself_is_found(self) -> None:
        before = os.environ.get("PYTEST_PROCESS_OF")
        tag = mark_descendants()
        detach = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], stdout=-3, "
        try:
            output = subprocess.check_output([sys.executable, "-c", detach + "start_new_session=True).pid)"])
        finally:
            if before is not None:
                os.environ["PYTEST_PROCESS_OF"] = before
        orphan = psutil.Process(int(output))

        result = leftovers(tag, within=SOON)

        assert orphan in result
        orphan.kill()
        orphan.wait(timeout=5)

    def test_closing_ends_what_a_process_has_started_too(self) -> None:
        processes = Processes()
        parent = processes.start_python(
            "-c",
            f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]).pid); " + SLEEPER,
        )
        child = psutil.Process(int(parent.wait_for(r"^\d+$").group()))
        parent.wait_for("(?s)up.*up")

        processes.close()

        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the child is gone")
