"""The job kind ``python``: a call of an importable Python function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordination.base.errors import Refused
from coordination.base.fields import MAPPING, TEXT, Field
from coordination.base.wording import excerpt
from coordination.domain.jobs.base import ENV, Job

_TARGET = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
_LONGEST_TARGET = 200


@dataclass(frozen=True, slots=True)
class PythonCall(Job):
    """A call of ``package.module:function`` with keyword arguments that are JSON. Its output is the return value."""

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
        """Raise Refused when the target is not the name of a function."""
        if not isinstance(self.target, str) or not _TARGET.match(self.target):
            message = f"{excerpt(self.target)} is not the name of a function"
            raise Refused(message, hint="Write it like package.module:function", field="python")


def target_of(function: Callable[..., Any]) -> str:
    """Return ``module:qualname`` of an importable function. Raises Refused for lambdas, locals and bound methods."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not name:
        target = excerpt(f"{module}:{name}" if module and name else function, _LONGEST_TARGET)
        message = f"{target} cannot be run, because a worker could not import it"
        raise Refused(message, hint="Use a function at the top level of a module, not of the script itself")
    return f"{module}:{name}"
