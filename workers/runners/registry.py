"""Which runner executes a job, and the processes they share: one launcher, one warden, one pool per worker process."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from coordination.domain.jobs import KINDS, job_class
from workers.runners.base import Runner
from workers.runners.pool import InterpreterPool
from workers.runners.process import Launcher
from workers.runners.python_callable import PythonRunner
from workers.runners.sandbox_policy import SandboxPolicy
from workers.runners.shared import Shared

_MODULES = {"python": "python_callable", "chat": "chat.runner"}
"""Where the runner of a kind is that is not in the module of its name."""


class Runners:
    """The runners of one worker process, each made by ``make_runner`` of its module. *sandbox*: of its Launcher.

    Close it when no job runs any more.
    """

    def __init__(self, worker_id: str | None = None, *, sandbox: SandboxPolicy | None = None) -> None:
        self.launcher = Launcher(worker_id, sandbox=sandbox)
        self.pool = InterpreterPool(self.launcher)
        shared = Shared(self.launcher, self.pool)
        modules = {kind: import_module(f"workers.runners.{_MODULES.get(kind, kind)}") for kind in KINDS}
        self._by_kind: dict[str, Runner] = {kind: module.make_runner(shared) for kind, module in modules.items()}
        self.python = cast("PythonRunner", self._by_kind["python"])

    def runner_for(self, work: Mapping[str, Any]) -> Runner:
        """Return the runner for a job as stored in a task's row; Refused for a kind that there is not."""
        return self._by_kind[job_class(work).kind]

    def close(self) -> None:
        """Close the runners that keep something open, then the idle interpreters and the warden."""
        for runner in self._by_kind.values():
            if (close := getattr(runner, "close", None)) is not None:
                close()
        self.pool.close()
        self.launcher.close()


_lock = threading.Lock()
_shared: tuple[int, Runners] | None = None


def runner_for(work: Mapping[str, Any]) -> Runner:
    """The runner for *work*, out of this process's shared set, which is made at its first use."""
    return shared().runner_for(work)


def shared() -> Runners:
    """This process's set of runners; a process that was forked makes its own."""
    global _shared  # noqa: PLW0603 - one warden and one pool per process is the point
    with _lock:
        if _shared is None or _shared[0] != os.getpid():
            _shared = (os.getpid(), Runners())
            atexit.register(_close_if_ours, os.getpid())
        return _shared[1]


def close() -> None:
    """End what this process's runners keep running; the next job would start it anew."""
    global _shared
    with _lock:
        mine, _shared = _shared, None
    if mine is not None and mine[0] == os.getpid():
        mine[1].close()


def _close_if_ours(pid: int) -> None:
    if os.getpid() == pid:
        close()
