"""Converts the cumulative usage of a running job into cost records whose sum is that usage.

A job reports its total usage again and again. The part that was not recorded is the next delta. A delta whose write may
have failed is returned unchanged until its write is confirmed. Each reported line is a record of its own, and all lines
with one id are one call; other usage is summed by model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import reduce
from typing import Any

from coordination.base.money import ZERO, minus, plus
from coordination.domain.money.costs import TOKEN_COUNTS, CostRecord, call_id, correct, repeat_id
from coordination.domain.money.pricing import AMOUNTS
from coordination.domain.tasks.attempts import Usage

_PARTS = TOKEN_COUNTS[:-1]
"""The counts of tokens without their total, which may be missing."""

_MOST_AMOUNTS = 10
_COUNTED = ("_tokens", "_requests")
"""The endings of the names of counts in ``extra``."""


@dataclass(slots=True)
class _Recorded:
    """The records of one model, or of one call with an id, and their totals."""

    counts: dict[str, int] = field(default_factory=dict)
    usd: Decimal = ZERO
    records: list[CostRecord] = field(default_factory=list)

    def add(self, record: CostRecord) -> None:
        self.records.append(record)
        self.usd = plus(self.usd, record.cost_usd or ZERO)
        for name, value in [*((name, getattr(record, name)) for name in TOKEN_COUNTS), *_extra_counts(record.extra)]:
            self.counts[name] = self.counts.get(name, 0) + value


class UsageDeltas:
    """The usage of one attempt. *price* adds missing prices to deltas, *record* makes records. Not thread-safe."""

    def __init__(self, price: Callable[[Usage], Usage], record: Callable[[Usage], CostRecord]) -> None:
        self._price = price
        self._record = record
        self._by_model: dict[str, _Recorded] = {}
        self._pending: list[CostRecord] = []
        self._lines: dict[tuple[str, int], Usage] = {}  # the content of each line when its record was made
        self._marks: set[str] = set()  # of the lines that have records
        self._calls: dict[str, _Recorded] = {}  # by id, from the first record on
        self._reports: dict[str, list[Usage]] = {}  # the different lines of each call
        self._line_ids: set[str] = set()  # of records of lines
        self._line_records: list[CostRecord] = []  # the confirmed ones

    def next_records(self, total: Iterable[Usage]) -> list[CostRecord]:
        """Return the records to write next, given the *total* usage so far; the same until ``confirm`` is called."""
        if not self._pending:
            usages = list(total)
            self._pending = self._records_of_lines(usages)
            self._pending += [self._record(self._price(delta)) for delta in self._deltas(_without_lines(usages))]
        return list(self._pending)

    def confirm(self, records: Sequence[CostRecord]) -> None:
        """Note that these records are in the ledger."""
        if records and records == self._pending:
            self._pending = []
        for record in records:
            if record.id in self._line_ids:
                self._line_records.append(record)
                continue
            self._by_model.setdefault(record.model, _Recorded()).add(record)

    def resume(self, records: Iterable[CostRecord], *, is_generated: Callable[[str], bool]) -> None:
        """Continue after another meter of the same attempt, whose *records* are in the ledger.

        *is_generated*: returns whether an id was generated for usage without lines.
        """
        for record in records:
            name = call_id(record)
            if not is_generated(name):
                self._marks.add(name)
                self._calls.setdefault(name, _Recorded()).add(record)
            elif record.corrects is None:
                self.confirm([record])
            elif record.model in self._by_model:
                recorded = self._by_model[record.model]
                recorded.usd = plus(recorded.usd, record.cost_usd or ZERO)

    @property
    def conflicts(self) -> dict[str, list[Usage]]:
        """Return the different reports of each call that was reported with several numbers, by its id."""
        return {name: reports for name, reports in self._reports.items() if len(reports) > 1}

    @property
    def confirmed(self) -> list[CostRecord]:
        """Return the records that are in the ledger."""
        return [*self._line_records, *(record for recorded in self._by_model.values() for record in recorded.records)]

    def final_records(self, total: Sequence[Usage]) -> list[CostRecord]:
        """Return all records that remain to be written after the end of the job, given its *total* usage.

        The costs that a job reports at its end replace computed ones: the difference is a correction. A job that
        reports nothing at its end was interrupted, and its earlier reports remain.
        """
        pending = self._pending
        self.confirm(pending)
        records = [*pending, *self._records_of_lines(total)]
        total = _without_lines(total)
        if not self._by_model or not total:
            return [*records, *(self._record(self._price(usage)) for usage in total)]
        groups = _by_model(total)
        for model, recorded in self._by_model.items():
            if model not in groups:  # the job uses another name of the model at its end
                records += self._corrections(recorded, minus(recorded.usd))
        for model, group in groups.items():
            if model not in self._by_model:
                records += [self._record(self._price(usage)) for usage in group]
                continue
            recorded, whole = self._by_model[model], _sum(group)
            delta = _subtract(whole, recorded.counts)
            if whole.cost_usd is None:
                records += [] if delta is None else [self._record(self._price(delta))]
                continue
            difference = plus(whole.cost_usd, minus(recorded.usd))
            if delta is not None:
                records.append(self._record(replace(delta, cost_usd=max(difference, ZERO))))
                difference = min(difference, ZERO)
            records += self._corrections(recorded, difference)
        return records

    def _records_of_lines(self, usages: Iterable[Usage]) -> list[CostRecord]:
        """Make records of lines that have none. An overwritten line is another call, unless it has an id."""
        records = []
        by_id: dict[str, list[Usage]] = {}
        for usage in usages:
            if usage.line is None:
                continue
            if usage.id is not None:
                by_id.setdefault(usage.id, []).append(usage)
            elif self._is_new(usage, usage.line):
                records.append(self._record(self._price(usage)))
        records += [more for name, group in by_id.items() if (more := self._more_of(name, group)) is not None]
        self._line_ids |= {record.id for record in records}
        return records

    def _is_new(self, usage: Usage, line: tuple[str, int]) -> bool:
        if usage.mark is not None:
            is_new = usage.mark not in self._marks
            self._marks.add(usage.mark)
            return is_new
        is_new = self._lines.get(line) != usage
        self._lines[line] = usage
        return is_new

    def _more_of(self, name: str, group: Sequence[Usage]) -> CostRecord | None:
        """Return a record of what a call's reports exceed its records. The largest counts: no provider bills less."""
        reports = self._reports.setdefault(name, [])
        for report in group:
            if not any(_is_same(report, other) for other in reports):
                reports.append(report)
        whole, recorded = _with_amounts(_largest(reports), reports), self._calls.get(name)
        delta: Usage | None = whole
        if recorded is not None:
            delta = _subtract(whole, recorded.counts)
            usd = None if whole.cost_usd is None else max(plus(whole.cost_usd, minus(recorded.usd)), ZERO)
            if delta is None:
                if not usd:
                    return None
                no_tokens: dict[str, Any] = dict.fromkeys(TOKEN_COUNTS, 0)
                extra = {name: whole.extra[name] for name in (AMOUNTS,) if name in whole.extra}
                delta = replace(whole, **no_tokens, extra=extra)
            delta = replace(delta, id=repeat_id(name, len(recorded.records) + 1), cost_usd=usd)
        record = self._record(self._price(delta or whole))
        self._calls.setdefault(name, _Recorded()).add(record)
        return record

    def _deltas(self, usages: Iterable[Usage]) -> list[Usage]:
        deltas = []
        for model, group in _by_model(usages).items():
            recorded, whole = self._by_model.get(model, _Recorded()), _sum(group)
            delta = _subtract(whole, recorded.counts)
            if delta is None:
                continue
            usd = None if whole.cost_usd is None else plus(whole.cost_usd, minus(recorded.usd))
            deltas.append(replace(delta, cost_usd=usd if usd is not None and usd >= 0 else None))
        return deltas

    def _corrections(self, recorded: _Recorded, difference: Decimal) -> list[CostRecord]:
        """Return corrections that add *difference* and settle all records without a price."""
        corrections = []
        for number, record in enumerate(reversed(recorded.records)):
            settles = record.cost_usd is None
            share = difference if number == 0 else ZERO
            if not share and not settles:
                continue
            corrections.append(correct(record, 1, share, extra={}, settles=settles))
        return corrections


def _without_lines(usages: Iterable[Usage]) -> list[Usage]:
    """Return the usage that was not reported by lines, which is cumulative."""
    return [usage for usage in usages if usage.line is None]


def _by_model(usages: Iterable[Usage]) -> dict[str, list[Usage]]:
    groups: dict[str, list[Usage]] = {}
    for usage in usages:
        groups.setdefault(usage.model, []).append(usage)
    return groups


def _is_same(report: Usage, other: Usage) -> bool:
    numbers = ("model", "cost_usd", *_PARTS)
    return all(getattr(report, name) == getattr(other, name) for name in numbers) and _total(report) == _total(other)


def _with_amounts(whole: Usage, reports: Sequence[Usage]) -> Usage:
    """Add all reported amounts to ``extra``, if there are several."""
    amounts = list(
        dict.fromkeys("unknown" if report.cost_usd is None else f"{report.cost_usd:f}" for report in reports)
    )
    return whole if len(amounts) == 1 else replace(whole, extra={**whole.extra, AMOUNTS: amounts[:_MOST_AMOUNTS]})


def _largest(reports: Sequence[Usage]) -> Usage:
    """Return the largest of every reported number of one call."""
    base = max(reports, key=lambda report: (report.cost_usd or ZERO, _total(report)))
    extra: dict[str, int] = {}
    for report in reports:
        extra |= {name: max(value, extra.get(name, 0)) for name, value in _extra_counts(report.extra)}
    counts: dict[str, Any] = {name: max(getattr(report, name) for report in reports) for name in _PARTS}
    return replace(base, **counts, total_tokens=max(map(_total, reports)), extra={**base.extra, **extra})


def _sum(group: Sequence[Usage]) -> Usage:
    """Return the sum of the usage of one model. Its cost is known if all costs are."""
    if len(group) == 1:
        return replace(group[0], total_tokens=_total(group[0]))
    costs = [usage.cost_usd for usage in group]
    extra: dict[str, int] = {}
    for usage in group:
        for name, value in _extra_counts(usage.extra):
            extra[name] = extra.get(name, 0) + value
    last = group[-1]
    counts: dict[str, Any] = {name: sum(getattr(usage, name) for usage in group) for name in _PARTS}
    cost = None if None in costs else reduce(plus, [cost for cost in costs if cost is not None], ZERO)
    total = sum(map(_total, group))
    return replace(last, **counts, total_tokens=total, cost_usd=cost, id=None, extra={**last.extra, **extra})


def _total(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens if usage.total_tokens is None else usage.total_tokens


def _extra_counts(extra: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(name, value) for name, value in extra.items() if name.endswith(_COUNTED) and type(value) is int]


def _subtract(whole: Usage, counts: Mapping[str, int]) -> Usage | None:
    """Return the usage without the recorded counts; None when nothing remains."""
    if not counts:
        return whole
    remaining: dict[str, Any] = {name: max((getattr(whole, name) or 0) - counts[name], 0) for name in TOKEN_COUNTS}
    if not any(remaining.values()):
        return None
    fewer = {name: max(value - counts.get(name, 0), 0) for name, value in _extra_counts(whole.extra)}
    return replace(whole, **remaining, id=None, extra={**whole.extra, **fewer})
