"""Checkouts and gates in a plan file, each with its line. What they may be, domain/workspaces says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from coordination.base.errors import Refused
from coordination.domain.jobs.checkouts import (
    CHECKOUT_KEYS,
    GATE_KEYS,
    GATE_TIMEOUT,
    MERGE_KEYS,
    Checkout,
    Gate,
    parse_checkout,
    parse_gates,
)
from coordination.domain.jobs.preparation import DATABASE_KEYS
from coordination.domain.plans.plans import BOTH_NAMES, ONE_NAME
from coordination.formats.plan.fields import Fields

_T = TypeVar("_T")


def read_checkout(fields: Fields) -> Checkout | None:
    """The field ``checkout``, or ``workspace`` by its old name: a kind, or a mapping."""
    key = next((name for name in ("checkout", "workspace") if fields.values.get(name) is not None), None)
    if key is None:
        return None
    if key == "checkout" and fields.values.get("workspace") is not None:
        raise fields.error("workspace", BOTH_NAMES, hint=ONE_NAME)
    value = fields.values[key]
    if isinstance(value, str):
        return _understood(fields, key, parse_checkout, value)
    if not isinstance(value, dict):
        raise fields.wrong(key, "a kind or a mapping")
    inner = Fields(fields.document, value, f"{fields.where}{key}: ", fields.place(key))
    inner.only(CHECKOUT_KEYS)
    keep, merge = inner.duration("keep_failed"), inner.inner("merge")
    written: dict[str, Any] = {name: inner.text(name) for name in ("kind", "base", "setup")}
    written |= {name: inner.texts(name) for name in ("lock", "copy", "share")}
    written["ports"] = inner.whole("ports")
    if keep is not None:
        written["keep_failed"] = keep.total_seconds()
    for name, known, part in (("merge", MERGE_KEYS, merge), ("database", DATABASE_KEYS, inner.inner("database"))):
        if part is not None:
            part.only(known)
            written[name] = {key: part.text(key) for key in known}
    return _understood(fields, key, parse_checkout, written)


def read_gates(fields: Fields) -> tuple[Gate, ...]:
    """The field ``gates``: one command, or a list of commands and mappings."""
    value = fields.values.get("gates")
    if value is None or isinstance(value, str):
        return _understood(fields, "gates", parse_gates, value)
    if not isinstance(value, list):
        raise fields.wrong("gates", "a command or a list of commands")
    read: list[Any] = []
    for index, item in enumerate(value):
        if isinstance(item, dict):
            inner = Fields(fields.document, item, f"{fields.where}gates: ", fields.place(f"gates[{index}]"))
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
        place = refused.field
        if place is not None and key == "workspace":
            place = place.replace("checkout", key, 1)
        raise fields.error(key, refused.message, hint=refused.hint, field=place) from None
