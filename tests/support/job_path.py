"""Lists our source files whose functions one shell job enters, from submission to cost: ``python -m`` this module.

The job runs in this process, on SQLite and without Redis. Code that only runs at import does not count, nor do the
programs that a job starts.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from coordination.api.connection import Coordination
from coordination.domain.plans.plans import Plan, Task
from coordination.domain.tasks.tasks import RunState
from coordination.runtime import open_runtime
from coordination.store import schema
from coordination.store.engine import open_store
from tests.support.apps import context_of, worker_settings
from tests.support.sources import ROOT
from workers.engine.executor import Executor
from workers.maintenance.supervisor_loop import SupervisorLoop
from workers.runners.registry import Runners

NO_REDIS = "redis://localhost:1/0"
COMMAND = 'echo done; echo \'{"model": "m", "input_tokens": 9, "cost_usd": 0.5}\' >> "$COORD_COSTS"'


def files_of_path(folder: Path) -> dict[str, frozenset[str]]:
    """Return the files that a shell job enters in each stage of its life; *folder* holds its store and its files."""
    settings = worker_settings(f"sqlite:///{folder / 'store.sqlite'}", NO_REDIS, folder)
    store = open_store(settings.database_url)
    schema.prepare(store)
    store.close()
    stages: dict[str, frozenset[str]] = {}
    runners = Runners()
    with Coordination(open_runtime(settings)) as co, context_of(settings) as context:
        execution = Executor(context, runners, SupervisorLoop(context))
        try:
            with _entered_files(stages, "submit"):
                run = co.submit(Plan([Task("build", {"shell": COMMAND})]))
            (task,) = run.tasks()
            with _entered_files(stages, "claim, run and finish"):
                execution.run_tasks(co.runtime.workspace_id, [task.id])
            with _entered_files(stages, "cost"):
                cost = run.cost
            if run.state is not RunState.COMPLETED or not cost:
                raise RuntimeError(f"The job did not complete with its cost: {run.state}, {cost}")
        finally:
            execution.close()
            runners.close()
    return stages


@contextmanager
def _entered_files(stages: dict[str, frozenset[str]], stage: str) -> Iterator[None]:
    """Record in *stages* the files whose functions this thread, and threads that it starts, enter in the block."""
    files: set[str] = set()
    importing = threading.local()

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if code.co_name == "<module>":
            importing.depth = getattr(importing, "depth", 0) + {"call": 1, "return": -1}.get(event, 0)
        elif event == "call" and not getattr(importing, "depth", 0):
            files.add(code.co_filename)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        ours = (Path(file) for file in files)
        relative = (file.relative_to(ROOT) for file in ours if file.is_relative_to(ROOT))
        stages[stage] = frozenset(str(file) for file in relative if file.parts[0] in ("coordination", "workers"))


def main() -> int:
    """Print the files, with the stages that enter each, and their number."""
    with tempfile.TemporaryDirectory() as folder:
        stages = files_of_path(Path(folder))
    files = sorted(frozenset().union(*stages.values()))
    lines = [f"{file}  ({'; '.join(stage for stage, entered in stages.items() if file in entered)})" for file in files]
    counts = ", ".join(f"{stage} {len(entered)}" for stage, entered in stages.items())
    sys.stdout.write("\n".join([*lines, f"{len(files)} files: {counts}", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
