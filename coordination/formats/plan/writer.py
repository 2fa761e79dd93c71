"""A Plan as a plan file that reads back equal. Leaves out what is as by default."""

from __future__ import annotations

from typing import Any

import yaml

from coordination.base.fields import write_fields
from coordination.domain.plans.plans import Plan
from coordination.formats.plan.scalars import plain_value
from coordination.formats.plan.table import PLAN, VERSION

_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LONG = 100


class _Dumper(_BASE):  # type: ignore[misc] # the C class where there is one
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - everything is written out
        return True


def _text(dumper: Any, text: str) -> Any:
    if "\n" in text and text.isprintable() is False and _block(text):
        style: str | None = "|"
    elif not isinstance(plain_value(text), str) or text in ("<<", "=", ""):
        style = '"'
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _block(text: str) -> bool:
    """Whether *text* keeps its form as a block of lines, which a shell script is read best as."""
    return text[0] not in " \n\t" and all(line.isprintable() and not line.endswith(" ") for line in text.split("\n"))


_Dumper.add_representer(str, _text)


def write_plan(plan: Plan) -> str:
    """Return *plan* as YAML, functions by their names; PlanError or Refused for jobs that have none."""
    document = {"version": VERSION} | write_fields(plan, PLAN[1:])
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LONG)
    return text
