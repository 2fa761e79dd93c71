"""Coordination: teams of AI agents as a production job system.

The public face, imported only when it is used, so that a job that merely reports its usage pays for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from coordination.adapters.account_store import Accounts
    from coordination.base.errors import CoordinationError
    from coordination.budgeting import Budgets
    from coordination.client import Coordination, Run, TaskHandle, connect
    from coordination.costs import Costs
    from coordination.domain.agents.agents import Agent, Profile
    from coordination.domain.forecast.predictions import Prediction
    from coordination.domain.jobs import AgentCall, ChatCall, PythonCall, Shell
    from coordination.domain.jobs.checkouts import Checkout, CheckoutKind, Gate
    from coordination.domain.jobs.preparation import Database, Preparation
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.domain.plans.plans import BudgetCap, Concurrency, Defaults, Dependency, Plan, ProjectRef, Task
    from coordination.domain.projects.stops import StartResult, Stop, StoppedAttempt, StopResult
    from coordination.domain.tasks.attempts import Attempt, Outcome
    from coordination.domain.tasks.events import Event, EventType
    from coordination.domain.tasks.retry import Backoff
    from coordination.domain.tasks.runs import RunState
    from coordination.domain.tasks.tasks import DependencyKind, OnDependencyFailure, TaskState
    from coordination.prices import Prices
    from coordination.staffing import Agents
    from coordination.worktrees import TaskCheckout

_HOMES = {
    "Accounts": "coordination.adapters.account_store",
    "Agent": "coordination.domain.agents.agents",
    "AgentCall": "coordination.domain.jobs.agent_call",
    "Agents": "coordination.staffing",
    "Attempt": "coordination.domain.tasks.attempts",
    "Backoff": "coordination.domain.tasks.retry",
    "BudgetCap": "coordination.domain.plans.plans",
    "Budgets": "coordination.budgeting",
    "ChatCall": "coordination.domain.jobs.chat_call",
    "Checkout": "coordination.domain.jobs.checkouts",
    "CheckoutKind": "coordination.domain.jobs.checkouts",
    "Concurrency": "coordination.domain.plans.plans",
    "Coordination": "coordination.client",
    "CoordinationError": "coordination.base.errors",
    "Costs": "coordination.costs",
    "Database": "coordination.domain.jobs.preparation",
    "Defaults": "coordination.domain.plans.plans",
    "Dependency": "coordination.domain.plans.plans",
    "DependencyKind": "coordination.domain.tasks.tasks",
    "Event": "coordination.domain.tasks.events",
    "EventType": "coordination.domain.tasks.events",
    "StoppedAttempt": "coordination.domain.projects.stops",
    "Limits": "coordination.domain.jobs.resource_limits",
    "Gate": "coordination.domain.jobs.checkouts",
    "OnDependencyFailure": "coordination.domain.tasks.tasks",
    "Outcome": "coordination.domain.tasks.attempts",
    "Plan": "coordination.domain.plans.plans",
    "Prediction": "coordination.domain.forecast.predictions",
    "Preparation": "coordination.domain.jobs.preparation",
    "Prices": "coordination.prices",
    "Profile": "coordination.domain.agents.agents",
    "ProjectRef": "coordination.domain.plans.plans",
    "PythonCall": "coordination.domain.jobs.python_call",
    "Run": "coordination.client",
    "RunState": "coordination.domain.tasks.runs",
    "Shell": "coordination.domain.jobs.shell",
    "BudgetStatus": "coordination.domain.money.budget_status",
    "StartResult": "coordination.domain.projects.stops",
    "Stop": "coordination.domain.projects.stops",
    "StopResult": "coordination.domain.projects.stops",
    "Task": "coordination.domain.plans.plans",
    "TaskCheckout": "coordination.worktrees",
    "TaskHandle": "coordination.client",
    "TaskState": "coordination.domain.tasks.tasks",
    "Workspace": "coordination.domain.jobs.checkouts",  # of before: Checkout
    "WorkspaceKind": "coordination.domain.jobs.checkouts",
    "connect": "coordination.client",
}

__all__ = [
    "Accounts",
    "Agent",
    "AgentCall",
    "Agents",
    "Attempt",
    "Backoff",
    "BudgetCap",
    "BudgetStatus",
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
    "StartResult",
    "Stop",
    "StopResult",
    "StoppedAttempt",
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
