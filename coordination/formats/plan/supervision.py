"""The supervised loop, who answers questions, and variants in a plan file. What they may be, domain/expansion says."""

from __future__ import annotations

from typing import Any

from coordination.base.errors import Refused
from coordination.domain.plans.plan_expansion import ANSWERER, MOST_VARIANTS, check_supervisor, supervision_of
from coordination.domain.plans.plans import Supervision
from coordination.formats.plan.fields import Fields

SUPERVISION_KEYS = ("assess", "analyze")


def read_supervision(fields: Fields) -> Supervision | None:
    """The field ``supervision``: who assesses, who analyses."""
    inner = fields.inner("supervision")
    if inner is None:
        return None
    inner.only(SUPERVISION_KEYS)
    try:
        return supervision_of(inner.values)
    except Refused as refused:
        raise fields.caused("supervision", refused) from None


def read_questions(fields: Fields) -> dict[str, Any] | None:
    """The field ``questions``: who answers what tasks ask."""
    value = fields.values.get(ANSWERER)
    if value is None:
        return None
    try:
        return check_supervisor(value, ANSWERER)
    except Refused as refused:
        raise fields.error(ANSWERER, refused.message, hint=refused.hint, field=refused.field) from None


def read_variants(fields: Fields) -> int | tuple[dict[str, Any], ...]:
    """The field ``variants``: how many, or what differs in each."""
    value = fields.values.get("variants")
    if value is None:
        return ()
    if value in (0, []) and value is not False:  # what is empty would be taken for what is not said
        raise fields.error("variants", f"variants are from 2 to {MOST_VARIANTS}, not 0")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise fields.wrong("variants", "a number, or a list of what differs", "Write [{agent: claude}, {agent: codex}]")
    return tuple(
        Fields(fields.document, {"variant": one}, fields.where, fields.place(f"variants[{index}]")).json("variant")
        for index, one in enumerate(value)
    )
