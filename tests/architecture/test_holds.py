"""Test that claim, tick, enqueuing and explanations name no hold: a new hold is a file and a line."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from types import ModuleType

import pytest

from coordination.cli.tasks import stalled_run
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.fleet import tick_supervisor
from coordination.flows.projects import change_project
from coordination.flows.tasks import claim_tasks, explain_task, find_obstacles
from coordination.services import holds
from coordination.services.tasks import dispatch_window
from coordination.store.queries.fleet import idle_supervisors
from coordination.store.queries.tasks import claims, ready
from coordination.store.reports.tasks import queueing

WALK_THE_LIST = [
    claim_tasks,
    tick_supervisor,
    tick_supervisor,
    explain_task,
    find_obstacles,
    dispatch_window,
    claims,
    idle_supervisors,
    ready,
    queueing,
    stalled_run,
]
THE_GRAPH = BlockReason.DEPENDENCIES
"""No hold: a task that waits for others is not ready."""

MODULES = {module.name for module in pkgutil.iter_modules(holds.__path__)} - {"base"}
NAMES = {hold.name for hold in holds.HOLDS} | {name for hold in holds.HOLDS for name in hold.reason.names()}
NOT_MEANT = {"limit", "not_before"}  # also names of a value in a statement, and of a column
QUERIES_OF_HOLDS = {"slots", "stops", "budgets", "money", "questions", "projects"}


def named(module: ModuleType) -> set[str]:
    """Return the holds that a module names: by reason, by a text, by a status of the project, or by an import."""
    matches: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        match node:
            case ast.Attribute(value=ast.Name("BlockReason"), attr=reason) if reason != THE_GRAPH.name:
                matches.add(f"BlockReason.{reason}")
            case ast.Name("ProjectStatus"):
                matches.add("ProjectStatus")
            case ast.Constant(str(text)) if text in NAMES - NOT_MEANT:
                matches.add(text)
            case ast.ImportFrom("coordination.services.holds", names=names):
                matches |= {alias.name for alias in names} & MODULES
            case ast.ImportFrom(str(path), names=names) if path.startswith("coordination.store.queries"):
                matches |= {alias.name for alias in names} & QUERIES_OF_HOLDS
            case ast.ImportFrom(str(path)) if path.rpartition("coordination.services.holds.")[2] in MODULES:
                matches.add(path)
    return matches


@pytest.mark.parametrize("module", WALK_THE_LIST, ids=lambda module: module.__name__)
def test_whoever_walks_the_list_names_no_hold(module: ModuleType) -> None:
    assert named(module) == set()


def test_a_hold_that_is_named_is_found() -> None:
    assert named(change_project) == {"ProjectStatus", "pause", "projects", "stops"}


def test_every_file_of_a_hold_is_in_the_list() -> None:
    listed = {type(hold).__module__.rpartition(".")[2] for hold in holds.HOLDS}

    assert listed == MODULES


def test_every_stored_reason_belongs_to_one_hold_or_to_the_graph() -> None:
    reasons = [reason for hold in holds.HOLDS for reason in hold.reason.names()]

    unused = {"approval", "reservation"} | ({"policy"} - set(reasons))
    assert sorted(reasons) == sorted(set(BlockReason(0xFFFF).names()) - set(THE_GRAPH.names()) - unused)
