"""The shared objects of a worker process: settings, store, leases, publisher."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable, RedisUnavailable
from coordination.base.host import boot_id, host
from coordination.base.ids import new_id
from coordination.base.started_jobs import StartedJobs
from coordination.domain.fleet.leases import LeaseTerms
from coordination.services.fleet.broker_keys import signatures_in
from coordination.settings import Settings, client_url
from coordination.store.engine import Store, open_store
from coordination.store.queries.fleet import workers
from coordination.store.redis.wakeups import Wakeups
from workers.broker.publisher import Publisher
from workers.leases.cost_settling import CostSettling
from workers.leases.duration_stats import DurationStats
from workers.leases.heartbeat import Heartbeat
from workers.leases.in_flight import InFlightAttempts
from workers.leases.usage_meter import UsagePrices
from workers.runners import scratch_dirs, usage_file
from workers.runners.scratch_dirs import ScratchDir

log = structlog.get_logger()

_FLEET_FRESH = 5.0  # seconds that the size of the fleet is cached
_MIN_WINDOW = 8


@dataclass(slots=True)
class Context:
    """The objects of one worker process. ``draining`` is set once: the process claims no task afterwards."""

    settings: Settings
    store: Store
    wakeups: Wakeups
    worker_id: str
    row: dict[str, Any]  # of the table ``workers``
    slots: int
    terms: LeaseTerms
    in_flight: InFlightAttempts
    heartbeat: Heartbeat
    publisher: Publisher
    scratch_dir: ScratchDir
    prices: UsagePrices
    settling: CostSettling
    started: StartedJobs
    duration_stats: DurationStats = field(default_factory=DurationStats)
    workspaces: tuple[str, ...] | None = None  # whose jobs this process runs; None: all
    draining: threading.Event = field(default_factory=threading.Event)
    _fleet_slots: int = 0
    _fleet_read_at: float = float("-inf")

    @property
    def scratch(self) -> Path:
        """The private folder of this process, for files of its running jobs."""
        return self.scratch_dir.path

    def serves(self, workspace_id: str) -> bool:
        """Return whether this process runs jobs of that workspace."""
        return self.workspaces is None or workspace_id in self.workspaces

    @property
    def worktrees(self) -> Path:
        """The folder of all worktrees, shared by the workers of one home folder."""
        return self.settings.worktrees or self.settings.home / "worktrees"

    def window(self) -> int:
        """Return how many messages a project may have enqueued: about two for each slot of all live workers."""
        if self.settings.window is not None:
            return self.settings.window
        if monotonic() - self._fleet_read_at > _FLEET_FRESH:
            self._fleet_read_at = monotonic()
            try:
                with self.store.read() as tx:
                    self._fleet_slots = workers.count_live_slots(tx, within=self.terms.ttl)
            except DatabaseUnavailable:
                log.debug("used the last known size of the fleet")
        return max(_MIN_WINDOW, 2 * max(self._fleet_slots, self.slots))

    def wake_projects(self, projects: Sequence[tuple[str, str]]) -> None:
        """Request ticks of these projects; without Redis the next sweep does them."""
        try:
            self.wakeups.wake_projects(projects)
        except RedisUnavailable as error:
            log.warning("tick not requested; the next sweep does it", why=error.message)

    def stop(self, workspace_id: str, project_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        """Stop these (task id, attempt) pairs on their workers; without Redis the next heartbeat does it."""
        running = [(task_id, attempt) for task_id, attempt in attempts if attempt]
        try:
            if running:
                self.wakeups.cancel(running)
                self.wakeups.wake_projects([(workspace_id, project_id)])
        except RedisUnavailable as error:
            log.warning("stop not sent; the next heartbeat does it", why=error.message)


def make_context(settings: Settings, *, name: str, slots: int, publisher: Callable[[Store], Publisher]) -> Context:
    """Make the context of a worker process. The store connects on first use. Raises Refused.

    *publisher*: makes the publisher of this process for its store.
    """
    store = open_store(settings.database_url, pool_size=slots + 4)
    worker_id = new_id()
    row = _registration(worker_id, name=name, slots=slots)
    in_flight = InFlightAttempts()
    terms = settings.leases()
    url = settings.redis_url
    assert url is not None  # noqa: S101 - make_app checks it
    scratch_dir = scratch_dirs.create(scratch_root(settings), scratch_dirs.IN_HOME)
    usage_file.keep_in(scratch_dir.path)
    prices = UsagePrices(store)
    return Context(
        settings=settings,
        store=store,
        wakeups=Wakeups(client_url(url), signatures_in(store)),
        worker_id=worker_id,
        row=row,
        slots=slots,
        terms=terms,
        in_flight=in_flight,
        heartbeat=Heartbeat(store, in_flight, row, terms=terms),
        publisher=publisher(store),
        scratch_dir=scratch_dir,
        prices=prices,
        settling=CostSettling(store, prices),
        started=StartedJobs(scratch_dir.path, worker_id, slots),
    )


def scratch_root(settings: Settings) -> Path:
    """Return the folder of the private folders of all workers of one home folder."""
    return settings.home / "scratch"


def _registration(worker_id: str, *, name: str, slots: int) -> dict[str, Any]:
    try:
        release = version("coordination")
    except PackageNotFoundError:
        release = "source"
    return {
        "id": worker_id,
        "name": name,
        "host": host(),
        "boot_id": boot_id(),
        "pid": os.getpid(),
        "slots": slots,
        "version": release,
    }
