"""Clears up: old worktrees and dead workers' folders go, and when retention is due, a round of it is done.

All of that happens beside everything else the worker does.

Every worker looks, beat asks too, and a lease in SQL lets one of them at it. A round ends after half a minute, so that
it holds no thread for long; what is left is due again at once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog

from coordination.adapters.artifact_store import ArtifactStore
from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError
from coordination.domain.tasks.tasks import OPEN, TaskState
from coordination.flows.projects import retain as flow
from coordination.settings import Settings
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import retention
from coordination.store.queries.tasks import tasks
from workers.attempt import host_leases
from workers.context import Context, scratch_of
from workers.runners import scratch_dirs
from workers.workspaces import setup_cache, worktree_folder

log = structlog.get_logger()

_ROUND = timedelta(seconds=30)
_LOOK = 60.0


class Cleanup:
    """One thread at most, started when something is due."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._every = context.settings.retention_every
        self._next = monotonic() + min(_LOOK, self._every.total_seconds())
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Start a round in a thread of its own when the time has come; returns at once."""
        now = monotonic()
        if now < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next = now + min(_LOOK, self._every.total_seconds())
        self._thread = threading.Thread(target=self.clear, name="coord-clearing", daemon=True)
        self._thread.start()

    def clear(self) -> None:
        """One round over the workspaces in which retention is due; what fails is logged and due again."""
        context = self._context
        try:
            self.clear_folders()
            self.clear_worktrees()
            if swept := setup_cache.sweep(context.worktrees, keep=context.settings.warm_kept):
                log.info("took away what setup commands made and nobody used for long", folders=swept)
            if dropped := host_leases.take_back(context.store):
                log.info("dropped the databases of attempts that have ended", databases=dropped)
            for workspace_id in self._due():
                done = flow.retain(
                    context.store,
                    workspace_id,
                    ages_of(context.settings),
                    archive=context.settings.retention_archive,
                    artifacts=ArtifactStore(context.settings.artifacts_url),
                    every=self._every,
                    rest=self._ended.wait,
                    budget=_ROUND,
                )
                if done is not None and done.rows:
                    log.info("deleted what was old", workspace=workspace_id, complete=done.complete, **done.rows)
        except CoordinationError as error:
            log.warning("clearing up failed", why=error.message)
        except Exception:
            # A bulkhead: the worker's jobs have nothing to do with it.
            log.exception("clearing up failed")

    def clear_folders(self) -> None:
        """Take away the folders of processes of this machine that are gone, once what was spent there is recorded."""
        context = self._context
        settling = context.settling
        settling.of_own(context.scratch, context.held.every)
        cleared = scratch_dirs.clear(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)
        cleared += scratch_dirs.clear(
            scratch_of(context.settings), scratch_dirs.IN_HOME, spare=lambda folder: not settling.of_dead(folder)
        )
        if cleared:
            log.info("took away folders of processes that are gone", folders=cleared)

    def clear_worktrees(self) -> None:
        """Take away the worktrees of this machine that nobody needs any more."""
        context = self._context
        if swept := worktree_folder.sweep(context.worktrees, keep=context.settings.worktrees_kept, ends=self._ends):
            log.info("took away worktrees that nobody needs", worktrees=swept)

    def _ends(self, owners: Mapping[str, Sequence[str]]) -> dict[str, worktree_folder.TaskEnd]:
        """Which of these tasks have ended."""
        ends = {}
        for workspace_id, ids in owners.items():
            with self._context.store.read() as tx:
                states = tasks.state_of(tx, workspace_id, ids)
            for task_id, (state, attempt) in states.items():
                if state not in OPEN:
                    ends[task_id] = worktree_folder.TaskEnd(state is TaskState.COMPLETED, attempt)
        return ends

    def _due(self) -> list[str]:
        with self._context.store.read() as tx:
            return [
                workspace_id
                for workspace_id in workers.workspaces_known(tx)
                if self._context.serves(workspace_id)
                and retention.is_due(tx, workspace_id, flow.CHORE, every=self._every)
            ]

    def request_stop(self) -> None:
        """Let a round end after the batch it is at."""
        self._ended.set()

    def stop(self) -> None:
        """End it. A run that is over leaves no worktrees to a worker that may never come."""
        self.request_stop()
        if self._thread is not None:
            self._thread.join(timeout=5)
        try:
            self.clear_worktrees()
        except (CoordinationError, OSError) as error:
            log.warning("clearing up failed", why=str(error))


def ages_of(settings: Settings) -> flow.RetentionAges:
    """How long what is kept, as the settings say."""
    return flow.RetentionAges(
        runs=settings.retention_runs, workers=settings.retention_workers, costs=settings.retention_costs
    )
