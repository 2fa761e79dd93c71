"""JSON forms of agents and of the accounts of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordination.adapters.account_store import Account, Variable
    from coordination.domain.agents.agents import Agent, AgentTotals


def agent(record: Agent, work: AgentTotals) -> dict[str, Any]:
    """Return an agent: its profile without empty values, and its work so far."""
    return {
        **record.profile.to_json(),
        "default": record.profile.default,
        "id": record.id,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "tasks_open": work.open,
        "tasks_completed": work.completed,
        "interactions": work.interactions,
        "last_activity_at": work.last_activity_at,
    }


def variable(record: Variable) -> dict[str, Any]:
    """Return a variable of an account, without the value of a secret."""
    view: dict[str, Any] = {"name": record.name, "kept": record.kept}
    return view if record.value is None else view | {"value": record.value}


def account(record: Account) -> dict[str, Any]:
    """Return an account, without its secrets."""
    return {"account": record.name, "variables": [variable(each) for each in record.variables]}


def account_in_folder(record: Account, folder: Path) -> dict[str, Any]:
    """Return an account and the folder of the accounts."""
    return {"folder": folder} | account(record)


def accounts(records: Sequence[Account], folder: Path, unusable: Mapping[str, str]) -> dict[str, Any]:
    """Return a list of accounts. *unusable*: the problems of unusable ones, by name."""
    return {"folder": folder, "accounts": [account(record) for record in records], "unusable": unusable}


def about_account(name: str, **facts: Any) -> dict[str, Any]:
    """Return the result of a command about an account: its name and *facts*."""
    return {"account": name, **facts}
