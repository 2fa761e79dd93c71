"""Principals: actors in a workspace, and those who are given work.

A principal is written as one text, such as ``user:ann``, ``task:build`` or ``supervisor``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self
from uuid import UUID, uuid5


class PrincipalKind(StrEnum):
    """The kinds of principals."""

    PERSON = "person"
    AGENT = "agent"
    TOKEN = "token"  # noqa: S105 - a kind
    TASK = "task"  # a task, by its key, for which its worker acts
    SYSTEM = "system"  # a part of this program


WORKER = "worker"
"""The prefix of a worker, which acts under the id of its process and has no row."""

_PREFIXES = {"user": PrincipalKind.PERSON} | {kind.value: kind for kind in PrincipalKind}
PREFIX_OF_PERSON = "user"


@dataclass(frozen=True, slots=True)
class Principal:
    """An actor, by kind and name."""

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
        """Return the id of this principal, derived so that every process computes the same without a query."""
        return str(uuid5(UUID(workspace_id), f"{self.kind}:{self.name}"))
