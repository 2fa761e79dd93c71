"""Test how processes are found by group and marker."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

from workers.runners import orphan_reaper
from workers.runners.process import death_sentence


@pytest.fixture
def marked() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    value = uuid4().hex
    process = subprocess.Popen(["sleep", "600"], start_new_session=True, env={**os.environ, "TEST_MARKER": value})
    yield process, f"TEST_MARKER={value}"
    process.kill()
    process.wait()


def test_a_process_is_found_by_the_tag_that_it_was_started_with_and_by_its_worker_s() -> None:
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    worker = orphan_reaper.worker_tag(f"COORD_WORKER_PROCESS={uuid4().hex}")
    one, other = orphan_reaper.job_tag(worker, 1), orphan_reaper.job_tag(worker, 2)
    with orphan_reaper.set_tag(one):
        process = subprocess.Popen(["sleep", "600"], env={})
    try:
        assert resource.getrlimit(resource.RLIMIT_RTTIME) == before
        assert orphan_reaper.find([one]) == orphan_reaper.find([worker]) == [process.pid]
        assert orphan_reaper.find([other, orphan_reaper.worker_tag("another"), b"NO_SUCH=marker"]) == []
    finally:
        process.kill()
        process.wait()
    assert orphan_reaper.find([one]) == []


def test_a_process_that_becomes_another_program_carries_no_tag() -> None:
    script = (
        "import os, resource, sys\n"
        "from workers.runners import orphan_reaper as stragglers\n"
        "kept = stragglers.set_tag(stragglers.worker_tag('w'))\n"
        "kept.__enter__()\n"
        "stragglers.drop_tag_before_exec()\n"
        "os.execv(sys.executable, [sys.executable, '-S', '-c', "
        "'import resource; print(resource.getrlimit(resource.RLIMIT_RTTIME))'])\n"
    )

    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)

    assert output.stdout.strip() == str(resource.getrlimit(resource.RLIMIT_RTTIME))


def test_a_process_is_found_by_its_marker_and_by_its_beginning(marked: tuple[subprocess.Popen[bytes], str]) -> None:
    process, marker = marked

    assert orphan_reaper.find([marker.encode()]) == [process.pid]
    assert orphan_reaper.find([marker[:-5].encode()]) == [process.pid]
    assert orphan_reaper.find([b"MARKER=" + marker.encode()[12:]]) == []


def test_a_process_is_found_by_its_group(marked: tuple[subprocess.Popen[bytes], str]) -> None:
    process, _ = marked

    assert orphan_reaper.find([], group=process.pid) == [process.pid]


def test_a_search_among_the_younger_leaves_the_elder_out(marked: tuple[subprocess.Popen[bytes], str]) -> None:
    process, marker = marked

    assert orphan_reaper.find([marker.encode()], born_after=process.pid) == []
    assert orphan_reaper.find([marker.encode()], born_after=process.pid - 1) == [process.pid]


def test_a_process_just_started_is_never_overlooked() -> None:
    # Popen returns in the middle of exec, when the new environment cannot be read yet.
    for _ in range(50):
        value = uuid4().hex
        process = subprocess.Popen(["sleep", "600"], env={"TEST_MARKER": value})

        remaining = orphan_reaper.find([f"TEST_MARKER={value}".encode()])

        process.kill()
        process.wait()
        assert remaining == [process.pid]


def test_a_zombie_is_not_running(marked: tuple[subprocess.Popen[bytes], str]) -> None:
    process, marker = marked
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert not orphan_reaper.is_running(process.pid)
    assert orphan_reaper.find([marker.encode()], group=process.pid) == []


def test_a_death_is_told_in_words() -> None:
    assert death_sentence(-9) == "killed by SIGKILL (out of memory?)"
    assert death_sentence(-11) == "killed by SIGSEGV"
    assert death_sentence(-40) == "killed by signal 40"
