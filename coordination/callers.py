"""Detects processes of jobs, which must not change the store that their job runs for.

Workers mark the processes that they start, in the environment and by a resource limit (``base.host``). A process
belongs to a job if it or one of its ancestors has a mark of a worker in the store.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from coordination.base.errors import DatabaseUnavailable, Refused
from coordination.base.host import WORKER_MARKER, carries_tag
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers

HELPERS = ".helpers"
"""The suffix of the marks of a worker's helper processes, which run one job each; the jobs have marks of their own."""

_MAX_ANCESTORS = 256
_HINT = "A job reports with coord task; let a person run this command outside of the job"


def refusal_for_jobs(store: Store, *, helper: bool = False) -> Refused | None:
    """Return why this process, as part of a job of *store*, may not change it; None for other processes.

    *helper*: allow a helper process that a worker has started to run one job.
    """
    marks = _workers_above(os.environ)
    worker_ids = {mark.partition(".")[0] for mark in marks if not (helper and mark.endswith(HELPERS))}
    tag = _own_tag()
    if not worker_ids and tag is None:
        return None
    try:
        with store.read() as tx:
            stored_ids = workers.ids(tx)
    except (DBAPIError, DatabaseUnavailable):  # without tables, no job runs for it
        return None
    if worker_ids.isdisjoint(stored_ids) and (tag is None or not any(carries_tag(tag, each) for each in stored_ids)):
        return None
    return Refused("A job of this store may change it only through its reports", hint=_HINT)


def check_process(store: Store, *, helper: bool = False) -> None:
    """Raise Refused in a process of a job that runs for *store*."""
    if (refused := refusal_for_jobs(store, helper=helper)) is not None:
        raise refused


def check_caller(database_url: str, *, helper: bool = False) -> None:
    """Raise Refused in a process of a job that runs for that store."""
    from coordination.store.engine import open_store

    store = open_store(database_url)
    try:
        check_process(store, helper=helper)
    finally:
        store.close()


def _workers_above(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the worker marks of this process and its ancestors."""
    if (own := environ.get(WORKER_MARKER)) is not None:
        yield own
    marker = f"\0{WORKER_MARKER}=".encode()
    pid = os.getpid()
    for _ in range(_MAX_ANCESTORS):
        if pid <= 1:
            return
        with contextlib.suppress(OSError):
            _, separator, rest = (b"\0" + Path(f"/proc/{pid}/environ").read_bytes()).partition(marker)
            if separator:
                yield rest.partition(b"\0")[0].decode(errors="replace")
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _own_tag() -> int | None:
    try:
        limit = resource.getrlimit(resource.RLIMIT_RTTIME)[0]
    except (OSError, ValueError, AttributeError):
        return None
    return limit if limit > 0 else None
