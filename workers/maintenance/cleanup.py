"""Background cleanup: delete old worktrees and dead workers' directories, and run retention when it is due.

Every worker checks what is due, and beat requests it too; a lease in SQL admits one of them. A round ends after half a
minute, so that it does not occupy a thread for long; the rest is due again at once.
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
from coordination.store.queries.projects import projects, retention
from coordination.store.queries.tasks import tasks
from workers.attempt import host_leases
from workers.context import Context, scratch_root
from workers.runners import scratch_dirs
from workers.workspaces import setup_cache, worktree_folder

log = structlog.get_logger()

_ROUND = timedelta(seconds=30)
_LOOK = 60.0


class Cleanup:
    """Runs cleanup rounds in at most one thread, which is started when a round is due."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._every = context.settings.retention_every
        self._next = monotonic() + min(_LOOK, self._every.total_seconds())
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def poll(self) -> None:
        """Start a round in a thread when it is due. Returns at once."""
        now = monotonic()
        if now < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next = now + min(_LOOK, self._every.total_seconds())
        self._thread = threading.Thread(target=self.clear, name="coord-clearing", daemon=True)
        self._thread.start()

    def clear(self) -> None:
        """Run one round. Errors are logged, and the round is due again."""
        context, settings = self._context, self._context.settings
        ages = flow.RetentionAges(
            runs=settings.retention_runs, workers=settings.retention_workers, costs=settings.retention_costs
        )
        try:
            self.clear_folders()
            self.clear_worktrees()
            if swept := setup_cache.sweep(context.worktrees, keep=settings.warm_kept):
                log.info("deleted unused results of setup commands", folders=swept)
            if dropped := host_leases.drop_ended_leases(context.store):
                log.info("dropped the databases of attempts that have ended", databases=dropped)
            for workspace_id in self._due():
                done = flow.retain(
                    context.store,
                    workspace_id,
                    ages,
                    archive=settings.retention_archive,
                    artifacts=ArtifactStore(settings.artifacts_url),
                    every=self._every,
                    rest=self._ended.wait,
                    budget=_ROUND,
                )
                if done is not None and done.rows:
                    log.info("deleted old rows", workspace=workspace_id, complete=done.complete, **done.rows)
        except CoordinationError as error:
            log.warning("cleanup failed", why=error.message)
        except Exception:
            log.exception("cleanup failed")  # must not affect the worker's jobs

    def clear_folders(self) -> None:
        """Delete the directories of ended processes of this machine, once their costs are recorded."""
        context = self._context
        settling = context.settling
        settling.settle_own(context.scratch, context.in_flight.all_keys)
        cleared = scratch_dirs.delete_abandoned(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)
        cleared += scratch_dirs.delete_abandoned(
            scratch_root(context.settings),
            scratch_dirs.IN_HOME,
            spare=lambda folder: not settling.settle_folder(folder),
        )
        if cleared:
            log.info("deleted directories of ended processes", folders=cleared)

    def clear_worktrees(self) -> None:
        """Delete the worktrees of this machine that are no longer needed."""
        context = self._context
        if swept := worktree_folder.sweep(context.worktrees, keep=context.settings.worktrees_kept, ends=self._ends):
            log.info("deleted unused worktrees", worktrees=swept)

    def _ends(self, owners: Mapping[str, Sequence[str]]) -> dict[str, worktree_folder.TaskEnd]:
        """Return the ends of those of these tasks that have ended."""
        ends = {}
        for workspace_id, ids in owners.items():
            with self._context.store.read() as tx:
                states = tasks.get_states(tx, workspace_id, ids)
            for task_id, (state, attempt) in states.items():
                if state not in OPEN:
                    ends[task_id] = worktree_folder.TaskEnd(state is TaskState.COMPLETED, attempt)
        return ends

    def _due(self) -> list[str]:
        with self._context.store.read() as tx:
            return [
                workspace_id
                for workspace_id in projects.workspace_ids(tx)
                if self._context.serves(workspace_id)
                and retention.is_due(tx, workspace_id, flow.CHORE, every=self._every)
            ]

    def request_stop(self) -> None:
        """Let a running round end after its current batch."""
        self._ended.set()

    def stop(self) -> None:
        """End a running round and delete unused worktrees, because no other worker may ever run here."""
        self.request_stop()
        if self._thread is not None:
            self._thread.join(timeout=5)
        try:
            self.clear_worktrees()
        except (CoordinationError, OSError) as error:
            log.warning("cleanup failed", why=str(error))
