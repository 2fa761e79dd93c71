"""Everything a worker process works with, wired once: settings, store, leases, publisher, runners."""

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
from workers.leases.usage_prices import UsagePrices
from workers.runners import cost_reports, scratch_dirs
from workers.runners.scratch_dirs import ScratchDir

log = structlog.get_logger()

_SLOTS_FRESH = 5.0
_MIN_WINDOW = 8


@dataclass(slots=True)
class Context:
    """One worker process. ``draining`` is set once and never taken back: nothing more is claimed."""

    settings: Settings
    store: Store
    wakeups: Wakeups
    worker_id: str
    row: dict[str, Any]  # of ``workers``
    name: str
    slots: int
    terms: LeaseTerms
    held: InFlightAttempts
    heartbeat: Heartbeat
    publisher: Publisher
    own: ScratchDir
    prices: UsagePrices
    settling: CostSettling
    started: StartedJobs
    kinds: DurationStats = field(default_factory=DurationStats)
    workspaces: tuple[str, ...] | None = None  # whose jobs it runs; None: all
    draining: threading.Event = field(default_factory=threading.Event)
    _fleet_slots: int = 0
    _fleet_asked: float = float("-inf")

    @property
    def scratch(self) -> Path:
        """A folder of this process alone, for what its jobs need while they run."""
        return self.own.path

    def serves(self, workspace_id: str) -> bool:
        """Whether jobs of that workspace may run here."""
        return self.workspaces is None or workspace_id in self.workspaces

    @property
    def worktrees(self) -> Path:
        """Where the worktrees of attempts are made: the same for all workers of one home."""
        return self.settings.worktrees or self.settings.home / "worktrees"

    def window(self) -> int:
        """How many of a project's tasks may be enqueued at once: about two per slot of the living fleet."""
        if self.settings.window is not None:
            return self.settings.window
        if monotonic() - self._fleet_asked > _SLOTS_FRESH:
            self._fleet_asked = monotonic()
            try:
                with self.store.read() as tx:
                    self._fleet_slots = workers.count_live_slots(tx, within=self.terms.ttl)
            except DatabaseUnavailable:
                log.debug("kept the last known size of the fleet")
        return max(_MIN_WINDOW, 2 * max(self._fleet_slots, self.slots))

    def wake_projects(self, projects: Sequence[tuple[str, str]]) -> None:
        """Ask for ticks of these projects; without Redis the next sweep does it."""
        try:
            self.wakeups.wake_projects(projects)
        except RedisUnavailable as error:
            log.warning("wakeup not sent; the next sweep ticks anyway", why=error.message)

    def stop(self, workspace_id: str, project_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        """Tell whoever runs these (task id, attempt) pairs to end them; without Redis the next heartbeat does it."""
        running = [(task_id, attempt) for task_id, attempt in attempts if attempt]
        try:
            if running:
                self.wakeups.cancel(running)
                self.wakeups.wake_projects([(workspace_id, project_id)])
        except RedisUnavailable as error:
            log.warning("not told to stop; the next heartbeat does it", why=error.message)


def make_context(settings: Settings, *, name: str, slots: int, publisher: Callable[[Store], Publisher]) -> Context:
    """Wire a worker process. It has its own folder; the store connects when it is first used. Raises Refused.

    *publisher* makes the one that this process enqueues with, for its store.
    """
    store = open_store(settings.database_url, pool_size=slots + 4)
    worker_id = new_id()
    row = _registration(worker_id, name=name, slots=slots)
    held = InFlightAttempts()
    terms = settings.leases()
    url = settings.redis_url
    assert url is not None  # noqa: S101 - no app is made without one
    own = scratch_dirs.create(scratch_of(settings), scratch_dirs.IN_HOME)
    cost_reports.keep_in(own.path)
    prices = UsagePrices(store)
    return Context(
        settings=settings,
        store=store,
        wakeups=Wakeups(client_url(url), signatures_in(store)),
        worker_id=worker_id,
        row=row,
        name=name,
        slots=slots,
        terms=terms,
        held=held,
        heartbeat=Heartbeat(store, held, row, terms=terms),
        publisher=publisher(store),
        own=own,
        prices=prices,
        settling=CostSettling(store, prices),
        started=StartedJobs(own.path, worker_id, slots),
    )


def scratch_of(settings: Settings) -> Path:
    """Where the workers of one home have their folders."""
    return settings.home / "scratch"


def _registration(worker_id: str, *, name: str, slots: int) -> dict[str, Any]:
    try:
        program = version("coordination")
    except PackageNotFoundError:
        program = "source"
    return {
        "id": worker_id,
        "name": name,
        "host": host(),
        "boot_id": boot_id(),
        "pid": os.getpid(),
        "slots": slots,
        "version": program,
    }
