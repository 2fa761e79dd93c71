"""Names that two places must agree on: beat's tasks and Celery's, the errors and their exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

import beat_schedule
from coordination.base import errors
from coordination.cli.exit_codes import EXIT_CODES
from tests.support.apps import app_of, worker_settings


def all_errors(base: type[errors.CoordinationError]) -> set[type[errors.CoordinationError]]:
    below = {kind for child in base.__subclasses__() for kind in all_errors(child)}
    return {base, *(kind for kind in below if kind.__module__.startswith(("coordination.", "workers.")))}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    """An app with its tasks, as beat and the workers have them; nothing of that connects to Redis."""
    with app_of(worker_settings("", "redis://localhost:1/0", tmp_path)) as made:
        made.loader.import_default_modules()
        yield made


def test_beat_starts_tasks_of_modules_that_every_worker_imports_and_of_queues_that_it_has(app: Celery) -> None:
    modules, queues = set(app.conf.include), {queue.name for queue in app.conf.task_queues}

    entries = app.conf.beat_schedule

    assert entries == beat_schedule.BEAT_SCHEDULE
    assert entries
    # By module: a task may be registered here only because another test has imported it.
    assert {type(app.tasks[entry["task"]]).__module__ for entry in entries.values()} <= modules
    assert {entry["options"]["queue"] for entry in entries.values()} <= queues


def test_every_task_has_its_queue(app: Celery) -> None:
    ours = {name for name, task in app.tasks.items() if type(task).__module__ in app.conf.include}

    assert ours == {"coordination.run", "coordination.tick", "coordination.sweep", "coordination.retain"}
    assert set(app.conf.task_routes) == ours


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
