"""The plan file as a JSON Schema (2020-12), for editors. Says what the reader says, as far as a schema can."""

from __future__ import annotations

from typing import Any

from coordination.base.fields import schema_of
from coordination.formats.plan.table import PLAN


def plan_schema() -> dict[str, Any]:
    """Return the schema of version 1. Cycles, unknown tasks and templates need the reader and domain/graph."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plan",
        "description": "A graph of jobs in a project.",
        **schema_of(PLAN),
    }
