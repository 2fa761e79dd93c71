"""Issues of Beads in the Python API: list those of a project, or replace them."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from coordination.api.names import find_project
from coordination.domain.issues.record import Issue
from coordination.flows.issues.import_issues import ImportedIssues, import_issues
from coordination.runtime import Runtime
from coordination.store.reports.issues.tracker import list_issues


class Issues:
    """The imported issues of a workspace's projects: ``co.issues``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self, project: str) -> builtins.list[Issue]:
        """Return the issues of a project, with the states of the tasks that work on them."""
        return self._runtime.read(list_issues, find_project(self._runtime, project).id)

    def replace(self, issues: Sequence[Issue], *, identity: str, name: str, path: str | None) -> ImportedIssues:
        """Replace all issues of the project with that identity, which is created if it is new."""
        return self._runtime.transact(import_issues, issues, identity=identity, name=name, path=path)
