"""The job kind ``shell``: a shell command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordination.base.errors import Refused
from coordination.base.fields import TEXT, Field
from coordination.domain.jobs.base import ENV, Job


@dataclass(frozen=True, slots=True)
class Shell(Job):
    """A command for ``/bin/sh -c``. Its output is its stdout without the last line break."""

    command: str
    env: Mapping[str, str] = field(default_factory=dict)

    kind = "shell"
    table = (Field("shell", TEXT, "the command", required=True, attribute="command"), ENV)

    def check(self) -> None:
        """Raise Refused for an empty command."""
        if not isinstance(self.command, str) or not self.command.strip():
            raise Refused("A shell job needs a command, written as one text", field="shell")

    @classmethod
    def label(cls, body: Mapping[str, Any]) -> str:
        """Return the command's first word."""
        return str(body["shell"]).split(maxsplit=1)[0]
