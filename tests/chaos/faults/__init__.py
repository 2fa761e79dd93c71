"""The kinds of faults, by name."""

from __future__ import annotations

from tests.chaos.faults import brokers, databases, networks, workers
from tests.chaos.faults.base import Fault, Hit, Later

KINDS: dict[str, type[Fault]] = {
    kind.name: kind for kind in (*workers.KINDS, *brokers.KINDS, *databases.KINDS, *networks.KINDS)
}

__all__ = ["KINDS", "Fault", "Hit", "Later"]
