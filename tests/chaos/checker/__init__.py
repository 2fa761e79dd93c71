"""The judge: reads the tables, the event log and the jobs' own account, and says what must not be.

It shares no statement and no rule with the product, so that a mistake there cannot excuse itself here.
"""

from __future__ import annotations

from pathlib import Path

from tests.chaos import evidence
from tests.chaos.checker.facts import Facts, read
from tests.chaos.checker.rules import RULES, Promises, Violation

__all__ = ["Facts", "Promises", "Violation", "check"]


def check(database_url: str, evidence_file: Path, promises: Promises) -> list[Violation]:
    """Every violation of every rule."""
    facts = read(database_url)
    account = evidence.account_of(evidence_file)
    return [violation for rule in RULES for violation in rule(facts, account, promises)]
