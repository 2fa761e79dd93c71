"""The runners of a worker process by job kind, and the launcher, warden and interpreter pool that they share."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from coordination.domain.jobs import JOBS, Job, PythonCall
from workers.runners.base import Runner
from workers.runners.pool import InterpreterPool
from workers.runners.process import Launcher
from workers.runners.python_callable import PythonRunner
from workers.runners.sandbox_policy import SandboxPolicy
from workers.runners.shared import RunnerResources

_MODULES = {"python": "python_callable", "chat": "chat.runner"}
"""The modules of runners whose module does not have the name of their job kind."""


class Runners:
    """The runners of one worker process. *sandbox*: of the Launcher. Close it when no job runs any more.

    ``by_kind``: by the class of the job. The runner of the kind ``shell`` is the class ShellRunner of its module.
    """

    def __init__(self, worker_id: str | None = None, *, sandbox: SandboxPolicy | None = None) -> None:
        self.launcher = Launcher(worker_id, sandbox=sandbox)
        self.pool = InterpreterPool(self.launcher)
        resources = RunnerResources(self.launcher, self.pool)
        self.by_kind: dict[type[Job], Runner] = {}
        for kind, job in JOBS.items():
            module = import_module(f"workers.runners.{_MODULES.get(kind, kind)}")
            self.by_kind[job] = getattr(module, f"{kind.capitalize()}Runner")(resources)
        self.python = cast("PythonRunner", self.by_kind[PythonCall])

    def close(self) -> None:
        """Close the runners that have resources, then the idle interpreters and the warden."""
        for runner in self.by_kind.values():
            if (close := getattr(runner, "close", None)) is not None:
                close()
        self.pool.close()
        self.launcher.close()
