"""Workspaces and gates in a plan file, each with its line. What they may be, domain/workspaces says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from coordination.domain.workspaces import (
    GATE_KEYS,
    GATE_TIMEOUT,
    MERGE_KEYS,
    WORKSPACE_KEYS,
    Gate,
    Workspace,
    parse_gates,
    parse_workspace,
)
from coordination.errors import Refused
from coordination.formats.plan.fields import Fields

_T = TypeVar("_T")


def read_workspace(fields: Fields) -> Workspace | None:
    """The field ``workspace``: a kind, or a mapping."""
    value = fields.values.get("workspace")
    if value is None:
        return None
    if not isinstance(value, dict | str):
        raise fields.wrong("workspace", "a kind or a mapping")
    if isinstance(value, str):
        return _understood(fields, "workspace", parse_workspace, value)
    inner = Fields(fields.document, value, f"{fields.where}workspace: ")
    inner.only(WORKSPACE_KEYS)
    keep, merge = inner.duration("keep_failed"), inner.inner("merge")
    written: dict[str, Any] = {"kind": inner.text("kind"), "base": inner.text("base")}
    if keep is not None:
        written["keep_failed"] = keep.total_seconds()
    if merge is not None:
        merge.only(MERGE_KEYS)
        written["merge"] = {name: merge.text(name) for name in MERGE_KEYS}
    return _understood(fields, "workspace", parse_workspace, written)


def read_gates(fields: Fields) -> tuple[Gate, ...]:
    """The field ``gates``: one command, or a list of commands and mappings."""
    value = fields.values.get("gates")
    if value is None or isinstance(value, str):
        return _understood(fields, "gates", parse_gates, value)
    if not isinstance(value, list):
        raise fields.wrong("gates", "a command or a list of commands")
    read: list[Any] = []
    for item in value:
        if isinstance(item, dict):
            inner = Fields(fields.document, item, f"{fields.where}gates: ")
            inner.only(GATE_KEYS)
            limit = inner.duration("timeout")
            read.append(Gate(inner.text("run") or "", GATE_TIMEOUT if limit is None else limit, inner.text("name")))
        else:
            read.append(item)
    if any(not isinstance(item, str | Gate) for item in read):
        raise fields.error("gates", "gates must hold commands", hint='Write them in quotes: ["pytest -q"]')
    return _understood(fields, "gates", parse_gates, read)


def _understood(fields: Fields, key: str, parse: Callable[[object], _T], value: object) -> _T:
    try:
        return parse(value)
    except Refused as refused:
        raise fields.error(key, refused.message, hint=refused.hint) from None
