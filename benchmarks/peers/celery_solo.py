"""Raw Celery with two worker processes of the solo pool: its fastest way on two cores, without results."""

from __future__ import annotations

from benchmarks.peers import celery


class Peer(celery.Peer):
    """As raw Celery, but the process that talks to Redis runs the tasks itself."""

    about = "two workers, solo pool, no results"
    pools = (("-P", "solo"), ("-P", "solo"))
