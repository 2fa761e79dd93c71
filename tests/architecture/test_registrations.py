"""Names that two places must agree on: beat's tasks and Celery's, the errors and their exit codes."""

from __future__ import annotations

import os
import subprocess
import sys

from coordination import errors
from coordination.cli.exit_codes import EXIT_CODES
from tests.support.sources import ROOT

LIST_TASKS = """
import beat_schedule
from workers.app import app
app.loader.import_default_modules()
tables = [value for value in vars(beat_schedule).values() if isinstance(value, dict)]
for table in [*tables, app.conf.beat_schedule]:
    for entry in table.values():
        if isinstance(entry, dict) and "task" in entry:
            print(entry["task"], entry["task"] in app.tasks)
"""


def all_errors(base: type[errors.CoordinationError]) -> set[type[errors.CoordinationError]]:
    below = {kind for child in base.__subclasses__() for kind in all_errors(child)}
    return {base, *(kind for kind in below if kind.__module__.startswith(("coordination.", "workers.")))}


def test_every_task_that_beat_starts_is_registered() -> None:
    # In a process of its own: as beat and the workers see it, with nothing that a test has imported.
    # The app wants to know where its Redis would be; registering tasks does not connect to it.
    environment = {**os.environ, "COORD_REDIS_URL": "redis://localhost:1/0"}

    listed = subprocess.run(
        [sys.executable, "-c", LIST_TASKS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert listed.returncode == 0, listed.stderr
    known = dict(line.split() for line in listed.stdout.splitlines())
    assert known
    assert set(known.values()) == {"True"}, known


def test_every_error_code_has_an_exit_code() -> None:
    codes = {kind.code for kind in all_errors(errors.CoordinationError)}

    assert not codes - set(EXIT_CODES)


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = all_errors(errors.CoordinationError)

    assert len({kind.code for kind in kinds}) == len(kinds)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = {word for line in (errors.__doc__ or "").splitlines() for word in line.split()}
    ours = {kind.__name__ for kind in all_errors(errors.CoordinationError) if kind.__module__ == errors.__name__}

    assert ours <= drawn
