"""Checks of a job's environment: plans contain variables with their values, but secrets only by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from coordination.base.errors import Refused
from coordination.base.wording import excerpt

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_SECRET_NAME = re.compile(r"(?i)(api_?key|token(?!s)|secret|passw(or)?d|credential)")
_SHORTEST_SECRET = 8


def is_variable(name: str) -> bool:
    """Return whether *name* is a valid name of a variable."""
    return _VARIABLE.match(name) is not None


def check_environment(env: Mapping[str, str], secrets: Sequence[str]) -> None:
    """Raise Refused for an invalid name in *secrets*, and for a value in *env* that looks like a secret."""
    for name in secrets:
        if not _VARIABLE.match(name):
            message = f"secrets contains {excerpt(name)}, which is not the name of a variable"
            hint = "It lists variables of the worker's environment by name, never values: [ANTHROPIC_API_KEY]"
            raise Refused(message, hint=hint, field="secrets")
    for name, text in env.items():
        if len(text) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and not text.startswith("{{"):
            message = f"env contains a value for {name}, and plans are stored and shown"
            raise Refused(message, hint=f"Set {name} where the worker runs, and write secrets: [{name}]", field="env")
