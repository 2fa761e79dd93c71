"""Test what a confined job cannot reach: terminals, devices, other processes, the machine. Real system calls."""

from __future__ import annotations

import os
import pty
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.services import without_landlock
from workers.runners import sandbox_exec
from workers.runners.registry import Runners
from workers.runners.sandbox_policy import SandboxPolicy


@pytest.fixture(autouse=True)
def _kernel() -> None:
    if not sandbox_exec.version() or not sandbox_exec.can_refuse_calls():
        without_landlock()


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "place").mkdir()
    runners = Runners(sandbox=SandboxPolicy(tmp_path / "scratch", required=True))
    yield Bench(runners, tmp_path / "scratch")
    runners.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """Provide a terminal of another user: its other end, and its name."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.fixture
def stranger() -> Iterator[int]:
    """Provide a process of the same user that is no part of the job."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def run(bench: Bench, command: str, tmp_path: Path) -> tuple[Outcome, str]:
    result = bench.run({"shell": command}, workdir=str(tmp_path / "place"))
    return result.outcome, f"{result.output or ''}{result.log or ''}"


def python(program: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


CALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(0 if {call} == 0 else os.strerror(ctypes.get_errno()))
"""


def received(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("how", [">", ">>", "<>"])
def test_it_opens_no_terminal_for_writing(confined: Bench, terminal: tuple[int, str], tmp_path: Path, how: str) -> None:
    master, name = terminal

    outcome, output = run(confined, f"exec 7{how} {name}; printf INJECTED >&7", tmp_path)

    assert outcome is Outcome.FAILED
    assert "denied" in output
    assert received(master) == b""


@pytest.mark.parametrize("request_", [0x5412, 0x541C, 0x541D, 0x5412 | 1 << 32])
def test_it_puts_no_words_into_the_input_of_a_terminal_that_it_may_read(
    confined: Bench, terminal: tuple[int, str], tmp_path: Path, request_: int
) -> None:
    _, name = terminal
    call = f"libc.ioctl(os.open({name!r}, os.O_RDONLY), ctypes.c_ulong({request_}), ctypes.byref(ctypes.c_char(b'x')))"

    outcome, output = run(confined, python(CALL.format(call=call)), tmp_path)

    assert (outcome, "not permitted" in output) == (Outcome.FAILED, True), output


def test_it_changes_no_settings_of_a_terminal_that_it_may_read(
    confined: Bench, terminal: tuple[int, str], tmp_path: Path
) -> None:
    if sandbox_exec.version() < 5:
        pytest.skip("the kernel does not keep jobs from devices that they only read")
    _, name = terminal

    outcome, output = run(confined, f"stty -echo < {name}", tmp_path)

    assert outcome is Outcome.FAILED, output


def test_it_makes_no_terminal_of_its_own(confined: Bench, tmp_path: Path) -> None:
    assert run(confined, python("import os; os.openpty()"), tmp_path)[0] is Outcome.FAILED


@pytest.mark.parametrize("device", ["null", "zero", "full", "random", "urandom"])
def test_it_opens_the_devices_that_keep_nothing(confined: Bench, tmp_path: Path, device: str) -> None:
    outcome, output = run(confined, f"exec 7<> /dev/{device}", tmp_path)

    assert outcome is Outcome.COMPLETED, output


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("device", ["c 4 1", "b 8 0", "c 1 1"])
def test_root_makes_no_device_in_its_folder(confined: Bench, tmp_path: Path, device: str) -> None:
    outcome, output = run(confined, f"mknod here {device}", tmp_path)

    assert outcome is Outcome.FAILED, output
    assert not (tmp_path / "place" / "here").exists()


OTHERS = [
    "libc.prlimit(pid, 7, ctypes.byref((ctypes.c_ulong * 2)(10, 10)), None)",
    "libc.setpriority(0, pid, 19)",
    "libc.setpriority(1, pid, 19)",
    "libc.setpriority(2, os.getuid(), 19)",
    "libc.sched_setaffinity(pid, 8, ctypes.byref(ctypes.c_ulong(1)))",
    "libc.sched_setscheduler(pid, 3, ctypes.byref(ctypes.c_int(0)))",
    "libc.sched_setparam(pid, ctypes.byref(ctypes.c_int(0)))",
]


@pytest.mark.parametrize("call", OTHERS)
def test_it_changes_no_limits_and_priorities_of_other_processes(
    confined: Bench, stranger: int, tmp_path: Path, call: str
) -> None:
    before = resource.prlimit(stranger, resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, stranger)

    outcome, output = run(confined, python(CALL.format(call=call.replace("pid", str(stranger)))), tmp_path)

    assert (outcome, "not permitted" in output) == (Outcome.FAILED, True), output
    assert (resource.prlimit(stranger, resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, stranger)) == before


@pytest.mark.parametrize("call", [call for call in OTHERS if "getuid" not in call])
def test_it_changes_its_own(confined: Bench, tmp_path: Path, call: str) -> None:
    outcome, output = run(confined, python(CALL.format(call=call.replace("pid", "0"))), tmp_path)

    assert outcome is Outcome.COMPLETED, output


def test_it_looks_at_limits_of_others(confined: Bench, stranger: int, tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root without its privileges may not look at a process that has them")
    outcome, output = run(confined, python(f"import resource; resource.prlimit({stranger}, 7)"), tmp_path)

    assert outcome is Outcome.COMPLETED, output


@pytest.mark.parametrize(
    "command", ["nice -n 5 true", "ulimit -n 64", "ulimit -S -c 0; timeout 5 true", "stty -a || true"]
)
def test_what_programs_need_still_works(confined: Bench, tmp_path: Path, command: str) -> None:
    outcome, output = run(confined, command, tmp_path)

    assert outcome is Outcome.COMPLETED, output


@pytest.mark.skipif(os.getuid() != 0, reason="others have no privileges to lose")
def test_root_keeps_privileges_over_files_and_none_over_the_machine(confined: Bench, tmp_path: Path) -> None:
    outcome, output = run(confined, "grep CapEff /proc/self/status; touch f; chown 1:1 f", tmp_path)
    kept = int(output.split()[1], 16)

    assert outcome is Outcome.COMPLETED, output
    assert kept & 0b11111111  # CAP_CHOWN and similar ones, CAP_SETUID
    assert [bit for bit in (9, 12, 16, 17, 19, 21, 22, 23, 24, 25, 27, 34, 38, 39) if kept >> bit & 1] == []
