"""Test that other jobs of a worker cannot reach what a sandboxed job reports and keeps while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench, claim_of
from workers.runners import sandbox_exec
from workers.runners.registry import Runners
from workers.runners.sandbox_policy import SandboxPolicy

pytestmark = pytest.mark.skipif(sandbox_exec.version() < sandbox_exec.ENOUGH, reason="the kernel cannot confine")

SPENT = json.dumps({"model": "m", "cost_usd": "4.99"})


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Bench]:
    runners = Runners(sandbox=SandboxPolicy(tmp_path / "scratch", required=True))
    bench = Bench(runners, tmp_path / "scratch")
    yield bench
    runners.close()
    assert bench.left_behind() == []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def test_a_command_changes_nothing_of_other_attempts_or_of_the_worker(confined: Bench, place: Path) -> None:
    with confined.folders.make(claim_of({"shell": "true"})) as other:
        (other / "bin").mkdir()
        names = ("x.costs.jsonl", "bin/coord", "reports.sock")
        for name in names:
            (other / name).write_text("")
        targets = [*(str(other / name) for name in names), str(other / "new"), str(confined.scratch / "new")]
        command = (
            f"for file in {' '.join(targets)}; do"
            f" echo '{SPENT}' >> $file || echo no; rm -f $file || echo no; done 2>&1 | grep -c '^no'"
        )

        result = confined.run({"shell": command}, workdir=str(place))

        assert result.output in ("8", "9", "10")  # rm -f succeeds for a file that never existed
        assert [(other / name).read_text() for name in names] == [""] * 3
        assert not (other / "new").exists()
    assert list(confined.scratch.iterdir()) == []


@pytest.mark.parametrize("workdir", [True, False])
def test_a_command_reports_its_own_costs_and_has_its_files(confined: Bench, place: Path, workdir: bool) -> None:  # noqa: FBT001
    command = f"echo '{SPENT}' >> $COORD_COSTS && test -s $COORD_INPUT && echo x > here && echo y > $TMPDIR/y"

    result = confined.run({"shell": command}, workdir=str(place) if workdir else None)

    assert (result.outcome, [str(one.cost_usd) for one in result.usage]) == (Outcome.COMPLETED, ["4.99"])
    assert list(confined.scratch.iterdir()) == []


def test_functions_report_their_own_costs_and_not_those_of_others(confined: Bench, place: Path) -> None:
    (place / "spending.py").write_text(
        "import os, pathlib\n"
        "from coordination.job import record_usage\n"
        "def spend():\n"
        "    record_usage(model='m', cost_usd='4.99')\n"
        "    pathlib.Path('here').write_text('x')\n"
        "def forge(scratch):\n"
        "    done = []\n"
        "    for folder in [scratch, *(os.path.join(scratch, name) for name in os.listdir(scratch))]:\n"
        "        try:\n"
        "            open(os.path.join(folder, 'forged'), 'w')\n"
        "            done.append(folder)\n"
        "        except OSError:\n"
        "            pass\n"
        "    return len(done)\n"
    )
    other = confined.scratch / "tmp-other"
    other.mkdir()

    for workdir in (str(place), None, str(place)):
        spent = confined.run({"python": "spending:spend"}, workdir=workdir, python_path=(str(place),))
        assert (spent.outcome, [str(one.cost_usd) for one in spent.usage]) == (Outcome.COMPLETED, ["4.99"]), spent.error
    forged = confined.run(
        {"python": "spending:forge", "args": {"scratch": str(confined.scratch)}},
        workdir=str(place),
        python_path=(str(place),),
    )

    assert forged.outcome is Outcome.COMPLETED, forged.error
    assert list(other.iterdir()) == []
    assert not (confined.scratch / "forged").exists()
    assert forged.output <= 3  # its own folders
