"""Reads cost records without the numbers of their lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coordination.domain.money.costs import CostRecord
from coordination.formats.costs_jsonl import numbered_costs


def read_costs(lines: Iterable[bytes], *, source: str | None = None) -> Iterator[CostRecord]:
    """Yield the records of a costs.jsonl."""
    return (record for _, record in numbered_costs(lines, source=source))
