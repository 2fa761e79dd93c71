"""How long a task whose worker was killed (-9) waits until it runs again.

Three workers, each with one long job, are killed at different moments of their heartbeats, with a fourth one idle: only
the lease tells that they are gone. And the worker of an embedded stack (``coord up``), whose parent lives. From the
signal to the moment at which the job says for the second time that it runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from benchmarks import goals
from benchmarks.bench import STORES, Bench, OurStack
from benchmarks.measure import run as run_command
from benchmarks.measure import series
from benchmarks.places import ROOT
from benchmarks.report import Line
from coordination import Plan, Task, connect
from coordination.domain.plans.plans import ProjectRef
from coordination.settings import load_settings
from coordination.stack.home import Home
from tests.support.fleet import SHORT_LEASES
from tests.support.processes import Process, until

_VICTIMS = 3
_APART = 3.3  # seconds between two kills: a third of a heartbeat, and a bit
_COORD = [sys.executable, "-m", "coordination.cli"]


def measure(bench: Bench) -> list[Line]:
    """Seconds; with the settings as shipped, or with short leases in a trial."""
    terms = {} if bench.full else SHORT_LEASES
    shipped = "settings as shipped" if bench.full else "leases of 3 s"
    goal = goals.KILLED if bench.full else None
    kinds = STORES if bench.full else STORES[:1]
    environments = [{**bench.environment(kind, database=6 + number), **terms} for number, kind in enumerate(kinds)]
    with ThreadPoolExecutor(len(kinds)) as threads:  # most of it is waiting
        waited = list(threads.map(lambda kind, env: _lost_leases(bench, kind, env), kinds, environments))
    again = [_embedded(bench, number) for number in range(bench.rounds)]
    return [
        *(
            Line(f"killed worker's task runs again, {shipped}", kind, series(found, "s"), goal=goal)
            for kind, found in zip(kinds, waited, strict=True)
        ),
        Line("the same when its parent lives", "embedded", series(again, "s"), goal=goals.KILLED_ON_A_LIVE_HOST),
    ]


def _lost_leases(bench: Bench, kind: str, environment: dict[str, str]) -> list[float]:
    stack = OurStack(kind, environment)
    stamps = [bench.folder / f"stamps-{kind}-{number}" for number in range(_VICTIMS if bench.full else 1)]
    victims: list[Process] = []
    try:
        for number, file in enumerate(stamps):
            victims.append(stack.start_worker("-c", "1"))  # the only free one, so the job is its
            stack.submit([Task("long", _job(file))], project=f"killed-{number}")
            _wait(file, 1, seconds=30)
        stack.start_worker("-c", str(_VICTIMS))
        killed = []
        for victim in victims:
            killed.append(time.time())
            victim.kill()
            if victim is not victims[-1]:
                time.sleep(_APART)
        for file in stamps:
            _wait(file, 2, seconds=120)
        return [_stamps(file)[1] - at for file, at in zip(stamps, killed, strict=True)]
    finally:
        for victim in victims:
            if victim.exit_code is None:
                victim.kill()
        _end(stack)
        stack.close()


def _embedded(bench: Bench, number: int) -> float:
    home = bench.folder / f"killed-home-{number}"
    environment = {"COORD_HOME": str(home), "COORD_DATABASE_URL": "", "COORD_REDIS_URL": "", "PYTHONPATH": str(ROOT)}
    file = bench.folder / f"stamps-embedded-{number}"
    run_command([*_COORD, "up", "--detach"], environment)
    try:
        record = Home(home).read()
        assert record is not None
        with connect(load_settings({"COORD_HOME": str(home), "COORD_REDIS_URL": record.redis_url})) as co:
            where = ProjectRef(name="killed", git_remote="https://example.org/killed.git")
            run = co.submit(Plan([Task("long", _job(file))], project=where))
            _wait(file, 1, seconds=30)
            killed = time.time()
            os.kill(record.services["worker"].pid, signal.SIGKILL)
            _wait(file, 2, seconds=120)
            run.cancel()
            until(lambda: run.state.ended, within=timedelta(seconds=60), what="the job has ended")
        return _stamps(file)[1] - killed
    finally:
        run_command([*_COORD, "down"], environment)


def _job(file: Path) -> dict[str, str]:
    """A long job that first writes down when it runs."""
    return {"shell": f"date +%s.%N >> '{file}'; exec sleep 600"}


def _wait(file: Path, lines: int, *, seconds: float) -> None:
    until(lambda: len(_stamps(file)) >= lines, within=timedelta(seconds=seconds), what=f"the job runs, {lines}.")


def _stamps(file: Path) -> list[float]:
    return [float(line) for line in file.read_text(encoding="utf-8").split()] if file.exists() else []


def _end(stack: OurStack) -> None:
    for run in stack.co.runs():
        if not run.state.ended:
            handle = stack.co.run(run.id)
            handle.cancel()
            until(lambda handle=handle: handle.state.ended, within=timedelta(seconds=60), what="the jobs have ended")
