"""Messages of ``coord down``: who uses the stack, and for which jobs it waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from coordination.base.durations import show_duration
from coordination.base.errors import CoordinationError
from coordination.base.host import boot_id, host
from coordination.base.wording import plural
from coordination.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from coordination.stack.home import Home, RunningStack

_MOST_NAMED = 8


class StopMessages:
    """Prints the users and the jobs of a stack, each once."""

    def __init__(self, settings: Settings, *, now: bool) -> None:
        self._settings = settings
        self._now = now
        self._printed: set[tuple[str, int]] = set()

    def print_users(self, home: Home) -> None:
        """Print the commands that use this stack, and how to continue their runs."""
        from coordination.stack.users import StackUsers

        if not home.is_owned():
            return
        try:
            users = StackUsers(home).present()
        except CoordinationError:
            return  # the stack is stopped all the same
        for user in users:
            hint = f"; continue its run later with: coord resume {user.run}" if user.run else ""
            print(f"This ends {user.sentence()}{hint}", flush=True)

    def print_jobs(self, record: RunningStack) -> None:
        """Print the running jobs that were not printed yet."""
        jobs = self._jobs(record)
        new = [job for job in jobs if (job["task_id"], job["number"]) not in self._printed]
        if not new:
            return
        self._printed |= {(job["task_id"], job["number"]) for job in new}
        grace = (
            "no grace period" if self._now else f"a grace period of {show_duration(timedelta(seconds=record.grace))}"
        )
        print(f"Waiting for {plural(len(jobs), 'job')}, with {grace}; jobs that still run then are handed back:")
        for job in new[:_MOST_NAMED]:
            since = show_duration(job["now"] - job["started_at"])
            print(f"  {job['key']} of run {job['run_id']} ({job['project']}), running for {since}")
        if len(new) > _MOST_NAMED:
            print(f"  … and {len(new) - _MOST_NAMED} more")
        if not self._now:
            print("To stop without waiting: coord down --now", flush=True)

    def _jobs(self, record: RunningStack) -> Sequence[RowMapping]:
        from coordination.stack.stack import WORKER
        from coordination.store.engine import open_store
        from coordination.store.queries.fleet import serving, workers

        worker = record.services.get(WORKER)
        if worker is None:
            return []
        store = open_store(self._settings.database_url)
        try:
            with store.read() as tx:
                ids = workers.by_process(tx, host=host(), boot_id=boot_id(), pid=worker.pid)
                return serving.list_running_on(tx, ids)
        except CoordinationError:
            return []  # the stack is stopped without the database, too
        finally:
            store.close()
