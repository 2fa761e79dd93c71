"""All kinds of jobs, found by their modules in this package, and the parser that every job goes through. Pure."""

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
"""The kinds by their names."""

KINDS = tuple(JOBS)

PAID_KINDS = tuple(kind for kind, job in JOBS.items() if job.asks_a_model)
"""Those of which every start costs money."""

IN_WORKTREE = " in a worktree"
"""What a job's label ends with where it has one: it takes longer."""


def parse_job(value: object) -> Job:
    """Return the job that a person or a stored row describes: a Job, a function, or a mapping with a kind as a key.

    Raises Refused with one sentence that names what is wrong.
    """
    if isinstance(value, Job):
        value.check()
        return value
    if isinstance(value, Mapping):
        return kind_in(value).from_json(value)
    if callable(value):
        return PythonCall(target_of(value))
    shown = ", ".join(f"{{{kind}: …}}" for kind in KINDS)
    raise Refused(f"A job is one of {shown}, not {type(value).__name__}")


def kind_in(body: Mapping[Any, Any]) -> type[Job]:
    """Return the kind of a job in its JSON form; Refused where it has the key of none or of several."""
    named_kinds = [job for kind, job in JOBS.items() if kind in body]
    if len(named_kinds) != 1:
        named = ", ".join(sorted(str(key) for key in body)) or "nothing"
        raise Refused(f"A job has one of the keys {', '.join(KINDS)}; this one has {named}")
    return named_kinds[0]


def kind_of(body: Mapping[str, Any]) -> str:
    """Return what a stored job runs, without its arguments: tasks of one kind take about as long as each other."""
    job = kind_in(body)
    return f"{job.kind}:{job.label(body)}"[:_LONGEST_LABEL]
