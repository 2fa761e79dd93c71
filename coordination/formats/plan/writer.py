"""Writer of plan files. A written plan reads back as an equal Plan; default values are omitted."""

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
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - repeated values are written in full
        return True


def _text(dumper: Any, text: str) -> Any:
    if "\n" in text and text.isprintable() is False and _fits_block(text):
        style: str | None = "|"
    elif not isinstance(plain_value(text), str) or text in ("<<", "=", ""):
        style = '"'
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _fits_block(text: str) -> bool:
    """Return whether *text* can be written as a literal block, which is the most readable form of a script."""
    return text[0] not in " \n\t" and all(line.isprintable() and not line.endswith(" ") for line in text.split("\n"))


_Dumper.add_representer(str, _text)


def write_plan(plan: Plan) -> str:
    """Return *plan* as YAML, with functions by name. Raises PlanError or Refused for functions without a name."""
    document = {"version": VERSION} | write_fields(plan, PLAN[1:])
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LONG)
    return text
