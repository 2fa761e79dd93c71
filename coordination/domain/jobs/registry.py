"""The registry of job kinds, discovered from the modules of ``kinds``, and the parser of jobs."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.jobs import kinds
from coordination.domain.jobs.base import Job
from coordination.domain.jobs.kinds.python_call import PythonCall, target_of

_LONGEST_LABEL = 200


def _registrations() -> Iterator[type[Job]]:
    for module in pkgutil.iter_modules(kinds.__path__, f"{kinds.__name__}."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Job) and value.__module__ == module.name:
                yield value


JOBS: Mapping[str, type[Job]] = {job.kind: job for job in _registrations() if job is not Job}
"""The job classes by kind."""

KINDS = tuple(JOBS)

PAID_KINDS = tuple(kind for kind, job in JOBS.items() if job.asks_a_model)
"""The kinds of which every start costs money."""

IN_WORKTREE = " in a worktree"
"""Suffix of the stored kind of tasks with a worktree, which take longer."""


def parse_job(value: object) -> Job:
    """Return the job of *value*: a Job, a function, or a mapping with a kind as a key. Raises Refused for others."""
    if isinstance(value, Job):
        value.check()
        return value
    if isinstance(value, Mapping):
        return job_class(value).from_json(value)
    if callable(value):
        return PythonCall(target_of(value))
    forms = ", ".join(f"{{{kind}: …}}" for kind in KINDS)
    raise Refused(f"A job is one of {forms}, not {type(value).__name__}")


def job_class(body: Mapping[Any, Any]) -> type[Job]:
    """Return the class of a job in its JSON form. Raises Refused when it has the key of no kind or of several."""
    classes = [job for kind, job in JOBS.items() if kind in body]
    if len(classes) != 1:
        keys = ", ".join(sorted(str(key) for key in body)) or "nothing"
        raise Refused(f"A job has one of the keys {', '.join(KINDS)}; this one has {keys}")
    return classes[0]


def kind_label(body: Mapping[str, Any]) -> str:
    """Return the stored kind of a job: its kind and label. Tasks with the same one take about equally long."""
    job = job_class(body)
    return f"{job.kind}:{job.label(body)}"[:_LONGEST_LABEL]
