"""Issues of Beads in the Python API: import them into a project, and list those that it has."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from coordination.api.names import find_project
from coordination.domain.issues import Issue
from coordination.flows.issues.import_issues import ImportedIssues, import_issues
from coordination.runtime import Runtime
from coordination.store.reports.issues.tracker import list_issues


class Issues:
    """The imported issues of a workspace's projects: ``co.issues``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self, project: str) -> builtins.list[Issue]:
        """Return the issues of a project, with the states of the tasks that work on them."""
        project_id = find_project(self._runtime, project).id
        with self._runtime.store.read() as tx:
            return list_issues(tx, self._runtime.workspace_id, project_id)

    def replace(self, issues: Sequence[Issue], *, identity: str, name: str, path: str | None) -> ImportedIssues:
        """Make *issues* those of the project with that identity, which is created if it is new. All, or none."""
        runtime = self._runtime
        return runtime.store.transact(
            lambda tx: import_issues(tx, runtime.workspace_id, issues, identity=identity, name=name, path=path)
        )
