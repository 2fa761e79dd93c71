"""Test that a job cannot decide or administer in the store that it runs for, however its command is started."""

from __future__ import annotations

import resource
import shlex
import sys

import pytest

from coordination.base.host import carries_tag
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.acceptance.test_reports import COORD
from tests.support.fleet import Fleet
from tests.support.sources import ROOT
from workers.runners import orphan_reaper

pytestmark = pytest.mark.shared_worker

VERBS = (
    "tasks answer other blue",
    "tasks cancel other",
    "tasks force other completed --reason x",
    "tasks retry other",
    "budgets set workspace --usd 1000",
    "agents create eve --runner claude",
    "projects pause fleet",
    "prices set m --input 1 --output 1",
    "submit plan.yaml",
)
"""Some; that each command decides is in tests/cli/test_job_callers.py."""

PROGRAMS = (
    "workers",
    "workers.process.isolated_worker",
    "celery -A workers.app worker -P solo",
    "celery -A workers.app beat",
    "celery -A workers.app control shutdown",
)
"""What administers the store without our command line, as arguments of ``python -m``."""


def store_variables(fleet: Fleet) -> str:
    """Return the variables that name the store, for a command in a job."""
    return " ".join(f"{name}='{value}'" for name, value in fleet.env.items() if name.startswith("COORD_"))


def test_verbs_that_decide_are_refused_in_a_job_and_looking_is_not(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.file("plan.yaml").write_text("version: 1\ntasks: [{key: x, run: {shell: 'true'}}]\n")
    lines = [f'{store_variables(fleet)} {COORD} {verb} >> said 2>&1; echo "$? {verb}" >> codes' for verb in VERBS]
    lines += [f"{store_variables(fleet)} {COORD} status > status 2>&1 && echo looked"]
    run = fleet.submit(Task("a", {"shell": "\n".join(lines)}), Task("other", {"shell": "sleep 1"}))

    assert run.wait(timeout=120) is RunState.COMPLETED

    output = fleet.file("said").read_text()
    assert "Traceback" not in output
    assert [line for line in fleet.file("codes").read_text().splitlines() if line.startswith("0 ")] == []
    assert output.count("may change it only through its reports") == len(VERBS), output
    assert run.task("a").output == "looked"
    assert len(fleet.co.runs()) == 1


@pytest.mark.full
@pytest.mark.parametrize("how", ["env", "setsid -w env -i PATH=$PATH"])
def test_processes_that_work_for_the_store_do_not_begin_in_a_job(fleet: Fleet, how: str) -> None:
    worker = fleet.worker("-c", "2")
    variables = f"PYTHONPATH={shlex.quote(str(ROOT))} {store_variables(fleet)}"
    python = f"{how} {variables} timeout 60 {shlex.quote(sys.executable)} -P -m"
    lines = [f'{python} {one} >> said 2>&1 < /dev/null; echo "$? {one}" >> codes' for one in PROGRAMS]
    run = fleet.submit(Task("a", {"shell": "\n".join(lines)}))

    assert run.wait(timeout=300) is RunState.COMPLETED

    output, codes = fleet.file("said").read_text(), fleet.file("codes").read_text().splitlines()
    assert [line for line in codes if line.split()[0] in ("0", "124")] == [], output
    assert output.count("may change it only through its reports") >= len(PROGRAMS), output
    assert worker.exit_code is None


@pytest.mark.parametrize(
    "how",
    ["env -u COORD_WORKER_PROCESS -u COORD_ATTEMPT_ID", "env -i PATH=$PATH", "setsid -f env -i PATH=$PATH"],
)
def test_a_command_without_the_marks_of_its_job_is_refused_too(fleet: Fleet, how: str) -> None:
    fleet.worker("-c", "2")
    command = f"{how} {store_variables(fleet)} {COORD} tasks cancel other > said 2>&1"
    run = fleet.submit(
        Task("a", {"shell": f"{command}; while ! grep -q . said; do sleep 0.1; done; sleep 0.5"}),
        Task("other", {"shell": "sleep 5"}),
    )

    assert run.wait(timeout=120) is RunState.COMPLETED

    assert "may change it only through its reports" in fleet.file("said").read_text()


def test_the_python_api_refuses_too_and_another_store_is_none_of_its_business(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    program = fleet.file("program.py")
    program.write_text(
        "from coordination import connect\n"
        "from coordination.base.errors import Refused\n"
        "with connect() as co:\n"
        "    (run,) = co.runs()\n"
        "    try:\n"
        "        co.run(run.id).cancel()\n"
        "    except Refused as refused:\n"
        "        print(refused)\n"
    )
    fleet.file("plan.yaml").write_text("version: 1\ntasks: [{key: x, run: {shell: 'echo nested'}}]\n")
    nested = f"COORD_HOME=$PWD/nested {COORD} run plan.yaml > nested.out 2>&1 && echo ran"
    run = fleet.submit(
        Task("a", {"shell": f"{store_variables(fleet)} {shlex.quote(sys.executable)} program.py\n{nested}"})
    )

    assert run.wait(timeout=120) is RunState.COMPLETED

    first, *rest = str(run.task("a").output).splitlines()
    assert "may change it only through its reports" in first
    assert rest == ["ran"], fleet.file("nested.out").read_text()


def test_the_tag_is_read_as_it_is_put_on() -> None:
    tag = orphan_reaper.job_tag(orphan_reaper.worker_tag("COORD_WORKER_PROCESS=w1"), 7)
    assert carries_tag(tag.value, "w1")
    assert not carries_tag(tag.value, "w2")
    assert not carries_tag(resource.RLIM_INFINITY, "w1")
    assert not carries_tag(1_000_000, "w1")
