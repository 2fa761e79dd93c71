"""Test processes that are identified by their start time, and ended when they are not our children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta

from coordination.stack.processes import ServiceRecord, end_all
from tests.support.processes import Processes


class TestProcessRecord:
    def test_this_process_is_alive(self) -> None:
        assert ServiceRecord.of(os.getpid()).alive()

    def test_the_same_pid_at_another_time_is_another_process(self) -> None:
        assert not ServiceRecord(os.getpid(), "another-boot:1").alive()

    def test_one_that_has_ended_is_not(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        result = ServiceRecord.of(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert not result.alive()  # a zombie
        process.communicate()
        assert not result.alive()  # a process that has been reaped


class TestEndAll:
    def test_one_that_obeys_is_asked(self, processes: Processes) -> None:
        process = processes.start_python("-c", "import signal; print('here', flush=True); signal.pause()")
        process.wait_for("here")

        end_all([ServiceRecord.of(process.pid)], timedelta(seconds=10))

        assert process.exit_code == -signal.SIGTERM

    def test_one_that_does_not_is_killed(self, processes: Processes) -> None:
        code = "import signal; signal.signal(15, signal.SIG_IGN); print('here', flush=True)\nwhile 1: signal.pause()"
        process = processes.start_python("-c", code)
        process.wait_for("here")

        end_all([ServiceRecord.of(process.pid)], timedelta(seconds=0.1))

        assert process.wait() == -signal.SIGKILL

    def test_one_that_only_has_the_pid_is_left_alone(self, processes: Processes) -> None:
        process = processes.start_python("-c", "import signal; print('here', flush=True); signal.pause()")
        process.wait_for("here")

        end_all([ServiceRecord(process.pid, ServiceRecord.of(os.getpid()).started)], timedelta(seconds=1))

        assert process.exit_code is None
