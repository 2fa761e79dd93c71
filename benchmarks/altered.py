"""A worker process of ours without one of its short cuts, or with an account of its time.

What is left out stands in BENCH_WITHOUT (a name of SHORTCUTS); BENCH_ACCOUNT names a file that gets the account, anew
every half second: by section, the seconds of CPU that threads spent in it and not in a section inside it.
"""

# ruff: noqa: SLF001 - what it alters is nobody else's business

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ACCOUNT, WITHOUT = "BENCH_ACCOUNT", "BENCH_WITHOUT"


def _no_batches() -> None:
    from workers.leases import duration_stats

    duration_stats.LARGEST = 1
    _no_unseen_kinds()


def _no_unseen_kinds() -> None:
    from workers.leases import duration_stats

    duration_stats._MOST_UNSEEN = duration_stats.LARGEST  # unseen kinds then always have a message each


def _no_going_on() -> None:
    from workers.engine.executor import Executor

    write = Executor._write

    def without(self: Any, batch: Any, ends: Any, *, go_on: bool) -> Any:  # noqa: ARG001 - as it is called
        return write(self, batch, ends, go_on=False)

    Executor._write = without  # type: ignore[method-assign]


def _no_combining() -> None:
    from workers.engine.committer import GroupCommit

    GroupCommit.__init__.__kwdefaults__["most"] = 1


def _no_settling() -> None:
    from coordination.base import gc_tuning

    gc_tuning.freeze_loaded_objects = lambda: gc.set_threshold(*gc.get_threshold())


def _no_preparing() -> None:
    import psycopg

    psycopg.Connection.connect.__func__.__kwdefaults__["prepare_threshold"] = None  # type: ignore[attr-defined]


def _one_at_a_time() -> None:
    from workers.leases import heartbeat

    heartbeat._BATCH = 1


SHORTCUTS: dict[str, tuple[str, Callable[[], None]]] = {
    "batches": ("one task a message", _no_batches),
    "unseen kinds": ("kinds never seen share no message", _no_unseen_kinds),
    "going on": ("a thread takes what is ready next from Redis only", _no_going_on),
    "combining": ("each thread writes in a transaction of its own", _no_combining),
    "settling": ("the garbage collector as Python sets it", _no_settling),
    "preparing": ("no prepared statements on PostgreSQL", _no_preparing),
    "one heartbeat": ("a statement for every attempt's heartbeat", _one_at_a_time),
}

_SECTIONS = (
    ("claims", "workers.engine.committer", "Committer._claim"),
    ("claims", "workers.engine.committer", "Committer._claim_together"),
    ("ends", "coordination.services.attempts.end", "end_attempts"),
    ("listeners", "coordination.flows.attempts.finish", "finish"),
    ("what is next", "coordination.flows.attempts.finish", "next_work"),
    ("begin, commit", "coordination.store.engine", "Store.transact"),
    ("enqueuing", "workers.broker.publisher", "CeleryPublisher.publish"),
    ("interpreters", "workers.runners.python_callable", "PythonRunner.run_batch"),
    ("results and notes", "workers.engine.batch", "collect_result"),
    ("batches and slots", "workers.engine.executor", "Executor.run_tasks"),
    ("supervisors", "workers.maintenance.supervisor_loop", "SupervisorLoop._once"),
)


class Account:
    """Adds up what each section cost; a section inside another one counts as itself alone."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._own = threading.local()

    def wrap(self, section: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """*act*, with its time on the account."""

        @functools.wraps(act)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began, outer = time.thread_time(), getattr(self._own, "inside", 0.0)
            self._own.inside = 0.0
            try:
                return act(*args, **kwargs)
            finally:
                took = time.thread_time() - began
                self.spent[section] += took - self._own.inside
                self._own.inside = outer + took

        return timed

    def open(self, file: Path) -> None:
        """Begin: put every section on the account, and write it down from time to time."""
        for section, module, path in _SECTIONS:
            holder: Any = importlib.import_module(module)
            *classes, name = path.split(".")
            for each in classes:
                holder = getattr(holder, each)
            found = getattr(holder, name)
            timed = self.wrap(section, found)
            setattr(holder, name, timed)
            for other in list(sys.modules.values()) if not classes else []:  # who has imported it by its name
                if vars(other).get(name) is found:
                    setattr(other, name, timed)
        threading.Thread(target=self._write, args=(file,), daemon=True).start()

    def _write(self, file: Path) -> None:
        main = Path("/proc/self/task") / str(os.getpid()) / "schedstat"
        beside = file.with_suffix(".new")
        while True:
            time.sleep(0.5)
            account = dict(self.spent) | {"Celery's own thread": int(main.read_text().split()[0]) / 1e9}
            beside.write_text(json.dumps(account), encoding="utf-8")
            beside.replace(file)


def main() -> int:
    """Change what is asked for, then be the worker."""
    if name := os.environ.get(WITHOUT):
        SHORTCUTS[name][1]()
    from workers.__main__ import main as work

    if file := os.environ.get(ACCOUNT):
        import workers.process.lifecycle  # noqa: F401 - brings in all that is put on the account

        Account().open(Path(file))
    return work(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
