"""Who calls: a process that a job has started decides and administers nothing in the store that its job runs for.

Workers mark what they start, in the environment and by a number in a limit (``machine``). A process is taken for a
job's if it or one above it shows a mark of a worker that the store knows.
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
"""How the mark of processes ends that a worker starts to run a job alone; their jobs have marks of their own."""

_DEEPEST = 256
_HINT = "A job reports with coord task; let a person run this command outside of the job"


def refusal_for_jobs(store: Store, *, helper: bool = False) -> Refused | None:
    """Why this process may not change *store*: it is one of a job that runs for it. None for everybody else.

    *helper*: it may also be one that a worker has started to run a job alone.
    """
    marks = _workers_above(os.environ)
    named = {one.partition(".")[0] for one in marks if not (helper and one.endswith(HELPERS))}
    tag = _own_tag()
    if not named and tag is None:
        return None
    try:
        with store.read() as tx:
            known = workers.ids(tx)
    except (DBAPIError, DatabaseUnavailable):  # it has no tables yet, so nothing runs for it
        return None
    if named.isdisjoint(known) and not (tag is not None and any(carries_tag(tag, one) for one in known)):
        return None
    return Refused("A job of this store changes nothing in it but by its reports", hint=_HINT)


def check_process(store: Store, *, helper: bool = False) -> None:
    """Refuse to go on in a process of a job that runs for *store*."""
    if (refused := refusal_for_jobs(store, helper=helper)) is not None:
        raise refused


def check_caller(database_url: str, *, helper: bool = False) -> None:
    """Refuse to go on in a process of a job that runs for that store."""
    from coordination.store.engine import open_store

    store = open_store(database_url)
    try:
        check_process(store, helper=helper)
    finally:
        store.close()


def _workers_above(environ: Mapping[str, str]) -> Iterator[str]:
    """The workers whose marks this process and those above it show."""
    if (own := environ.get(WORKER_MARKER)) is not None:
        yield own
    marker = f"\0{WORKER_MARKER}=".encode()
    pid = os.getpid()
    for _ in range(_DEEPEST):
        if pid <= 1:
            return
        with contextlib.suppress(OSError):
            _, marked, rest = (b"\0" + Path(f"/proc/{pid}/environ").read_bytes()).partition(marker)
            if marked:
                yield rest.partition(b"\0")[0].decode(errors="replace")
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _own_tag() -> int | None:
    try:
        found = resource.getrlimit(resource.RLIMIT_RTTIME)[0]
    except (OSError, ValueError, AttributeError):
        return None
    return found if found > 0 else None
