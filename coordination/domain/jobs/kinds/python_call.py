"""A call of an importable Python function as a job."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordination.base.errors import Refused
from coordination.base.fields import Field
from coordination.base.value_types import MAPPING, TEXT
from coordination.base.wording import excerpt
from coordination.domain.jobs.base import ENV, Job

_TARGET = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
_LONGEST_TARGET = 200


@dataclass(frozen=True, slots=True)
class PythonCall(Job):
    """An importable function ``package.module:function`` with JSON-able keyword arguments.

    Its output is what it returns.
    """

    target: str
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    kind = "python"
    table = (
        Field("python", TEXT, "the function: `package.module:function`", required=True, attribute="target"),
        Field("args", MAPPING, "its keyword arguments"),
        ENV,
    )
    templates = ("args",)
    keeps_values = True
    output_name = None

    def check(self) -> None:
        """Refuse what does not name a function."""
        if not isinstance(self.target, str) or not _TARGET.match(self.target):
            raise Refused(
                f"{excerpt(self.target)} does not name a function",
                hint="Write it like package.module:function",
                field="python",
            )


def target_of(function: Callable[..., Any]) -> str:
    """Return ``module:qualname`` of an importable function; Refused for lambdas, locals and methods of objects."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not name:
        shown = excerpt(f"{module}:{name}" if module and name else function, _LONGEST_TARGET)
        raise Refused(
            f"{shown} cannot be run by a worker, because a worker could not import it",
            hint="Use a function at the top level of a module, not of the script itself",
        )
    return f"{module}:{name}"
