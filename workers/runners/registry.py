"""The runners of a worker process by job kind, and the launcher, warden and interpreter pool that they share."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from coordination.domain.jobs import KINDS, job_class
from workers.runners.base import Runner
from workers.runners.pool import InterpreterPool
from workers.runners.process import Launcher
from workers.runners.python_callable import PythonRunner
from workers.runners.sandbox_policy import SandboxPolicy
from workers.runners.shared import RunnerResources

_MODULES = {"python": "python_callable", "chat": "chat.runner"}
"""The modules of runners whose module does not have the name of their job kind."""


class Runners:
    """The runners of one worker process, each made by ``make_runner`` of its module. *sandbox*: of the Launcher.

    Close it when no job runs any more.
    """

    def __init__(self, worker_id: str | None = None, *, sandbox: SandboxPolicy | None = None) -> None:
        self.launcher = Launcher(worker_id, sandbox=sandbox)
        self.pool = InterpreterPool(self.launcher)
        resources = RunnerResources(self.launcher, self.pool)
        modules = {kind: import_module(f"workers.runners.{_MODULES.get(kind, kind)}") for kind in KINDS}
        self._by_kind: dict[str, Runner] = {kind: module.make_runner(resources) for kind, module in modules.items()}
        self.python = cast("PythonRunner", self._by_kind["python"])

    def runner_for(self, work: Mapping[str, Any]) -> Runner:
        """Return the runner of a stored job. Raises Refused for an unknown kind."""
        return self._by_kind[job_class(work).kind]

    def close(self) -> None:
        """Close the runners that have resources, then the idle interpreters and the warden."""
        for runner in self._by_kind.values():
            if (close := getattr(runner, "close", None)) is not None:
                close()
        self.pool.close()
        self.launcher.close()
