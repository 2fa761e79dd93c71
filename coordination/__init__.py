"""Coordination: teams of AI agents as a production job system.

The public face, imported only when it is used, so that a job that merely reports its usage pays for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordination.budgeting import Budgets
    from coordination.client import Coordination, Run, TaskHandle, connect
    from coordination.costs import Costs
    from coordination.domain.agents import Agent, Profile
    from coordination.domain.attempts import Attempt, Outcome
    from coordination.domain.chat import ChatCall
    from coordination.domain.events import Event, EventType
    from coordination.domain.plans import Backoff, BudgetCap, Concurrency, Defaults, Dependency, Plan, ProjectRef, Task
    from coordination.domain.predictions import Prediction
    from coordination.domain.preparation import Database, Preparation
    from coordination.domain.runs import RunState
    from coordination.domain.standings import Standing
    from coordination.domain.stops import InFlight, Started, Stop, Stopped
    from coordination.domain.tasks import DependencyKind, OnDependencyFailure, TaskState
    from coordination.domain.work import AgentCall, PythonCall, Shell
    from coordination.domain.workspaces import Checkout, CheckoutKind, Gate
    from coordination.errors import CoordinationError
    from coordination.prices import Prices
    from coordination.staffing import Agents
    from coordination.worktrees import TaskCheckout

_HOMES = {
    "Agent": "coordination.domain.agents",
    "AgentCall": "coordination.domain.work",
    "Agents": "coordination.staffing",
    "Attempt": "coordination.domain.attempts",
    "Backoff": "coordination.domain.plans",
    "BudgetCap": "coordination.domain.plans",
    "Budgets": "coordination.budgeting",
    "ChatCall": "coordination.domain.chat",
    "Checkout": "coordination.domain.workspaces",
    "CheckoutKind": "coordination.domain.workspaces",
    "Concurrency": "coordination.domain.plans",
    "Coordination": "coordination.client",
    "CoordinationError": "coordination.errors",
    "Costs": "coordination.costs",
    "Database": "coordination.domain.preparation",
    "Defaults": "coordination.domain.plans",
    "Dependency": "coordination.domain.plans",
    "DependencyKind": "coordination.domain.tasks",
    "Event": "coordination.domain.events",
    "EventType": "coordination.domain.events",
    "InFlight": "coordination.domain.stops",
    "Limits": "coordination.domain.limits",
    "Gate": "coordination.domain.workspaces",
    "OnDependencyFailure": "coordination.domain.tasks",
    "Outcome": "coordination.domain.attempts",
    "Plan": "coordination.domain.plans",
    "Prediction": "coordination.domain.predictions",
    "Preparation": "coordination.domain.preparation",
    "Prices": "coordination.prices",
    "Profile": "coordination.domain.agents",
    "ProjectRef": "coordination.domain.plans",
    "PythonCall": "coordination.domain.work",
    "Run": "coordination.client",
    "RunState": "coordination.domain.runs",
    "Shell": "coordination.domain.work",
    "Standing": "coordination.domain.standings",
    "Started": "coordination.domain.stops",
    "Stop": "coordination.domain.stops",
    "Stopped": "coordination.domain.stops",
    "Task": "coordination.domain.plans",
    "TaskCheckout": "coordination.worktrees",
    "TaskHandle": "coordination.client",
    "TaskState": "coordination.domain.tasks",
    "Workspace": "coordination.domain.workspaces",  # of before: Checkout
    "WorkspaceKind": "coordination.domain.workspaces",
    "connect": "coordination.client",
}

__all__ = [
    "Agent",
    "AgentCall",
    "Agents",
    "Attempt",
    "Backoff",
    "BudgetCap",
    "Budgets",
    "ChatCall",
    "Checkout",
    "CheckoutKind",
    "Concurrency",
    "Coordination",
    "CoordinationError",
    "Costs",
    "Database",
    "Defaults",
    "Dependency",
    "DependencyKind",
    "Event",
    "EventType",
    "Gate",
    "InFlight",
    "Limits",
    "OnDependencyFailure",
    "Outcome",
    "Plan",
    "Prediction",
    "Preparation",
    "Prices",
    "Profile",
    "ProjectRef",
    "PythonCall",
    "Run",
    "RunState",
    "Shell",
    "Standing",
    "Started",
    "Stop",
    "Stopped",
    "Task",
    "TaskCheckout",
    "TaskHandle",
    "TaskState",
    "connect",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
