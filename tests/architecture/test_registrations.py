"""Test names that two places must agree on: beat's tasks and Celery's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

import beat_schedule
from tests.support.apps import app_of, worker_settings


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    """Provide an app with its tasks, as beat and the workers have them; nothing of that connects to Redis."""
    with app_of(worker_settings("", "redis://localhost:1/0", tmp_path)) as created:
        created.loader.import_default_modules()
        yield created


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
