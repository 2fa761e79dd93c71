"""Which runner executes a job, and the processes they share: one launcher, one warden, one pool per worker process."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from typing import Any

from coordination.base.errors import Refused
from workers.runners.agent import AgentRunner
from workers.runners.base import Runner
from workers.runners.chat.runner import ChatRunner
from workers.runners.pool import InterpreterPool
from workers.runners.process import Launcher
from workers.runners.provider_environment import ProviderEnvironment
from workers.runners.python_callable import PythonRunner
from workers.runners.sandbox_policy import SandboxPolicy
from workers.runners.shell import ShellRunner


class Runners:
    """The runners of one worker process. Close it when no job runs any more. *sandbox*: of its Launcher."""

    def __init__(self, worker_id: str | None = None, *, sandbox: SandboxPolicy | None = None) -> None:
        self.launcher = Launcher(worker_id, sandbox=sandbox)
        self.pool = InterpreterPool(self.launcher)
        self.python = PythonRunner(self.pool)
        providing = ProviderEnvironment()
        self._chat = ChatRunner(self.launcher, providing)
        self._by_kind: dict[str, Runner] = {
            "shell": ShellRunner(self.launcher),
            "python": self.python,
            "agent": AgentRunner(self.launcher, providing),
            "chat": self._chat,
        }

    def runner_for(self, work: Mapping[str, Any]) -> Runner:
        """The runner for a job as stored in a task's row. Raises Refused for a kind that nobody here can run."""
        for kind, runner in self._by_kind.items():
            if kind in work:
                return runner
        kinds = ", ".join(sorted(str(key) for key in work)) or "nothing"
        raise Refused(f"No runner executes a job with {kinds}", hint=f"It may be: {', '.join(self._by_kind)}")

    def close(self) -> None:
        """End the chats' loop and the idle interpreters, then the warden."""
        self._chat.close()
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
