"""The checker: reads the tables, the event log and the jobs' own evidence, and reports violations.

It shares no statement and no rule with the product, so that a mistake in the product cannot hide itself here.
"""

from __future__ import annotations

from pathlib import Path

from tests.chaos import evidence
from tests.chaos.checker.facts import Facts, read
from tests.chaos.checker.rules import RULES, Promises, Violation

__all__ = ["Facts", "Promises", "Violation", "check"]


def check(database_url: str, evidence_file: Path, promises: Promises) -> list[Violation]:
    """Return every violation of every rule."""
    facts = read(database_url)
    account = evidence.account_of(evidence_file)
    return [violation for rule in RULES for violation in rule(facts, account, promises)]
