"""Principals: whoever acts in a workspace, or is given work. Pure.

People read and write a principal as one text, such as ``user:ann``, ``task:build`` or ``supervisor``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self
from uuid import UUID, uuid5


class PrincipalKind(StrEnum):
    """What a principal is."""

    PERSON = "person"
    AGENT = "agent"
    TOKEN = "token"  # noqa: S105 - a kind
    TASK = "task"  # a task that its worker speaks for, by its key
    SYSTEM = "system"  # a part of this program


WORKER = "worker"
"""The prefix of a worker, which acts under the id of its process and has no row of its own."""

_PREFIXES = {"user": PrincipalKind.PERSON} | {kind.value: kind for kind in PrincipalKind}
PREFIX_OF_PERSON = "user"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who acts, by kind and name."""

    kind: PrincipalKind
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the principal that *text* names; a text without a known prefix names a part of this program."""
        prefix, colon, name = text.partition(":")
        if colon and prefix in _PREFIXES:
            return cls(_PREFIXES[prefix], name)
        return cls(PrincipalKind.SYSTEM, text)

    def id_in(self, workspace_id: str) -> str:
        """Return the id that every process gives this principal, so that nobody has to look it up."""
        return str(uuid5(UUID(workspace_id), f"{self.kind}:{self.name}"))
