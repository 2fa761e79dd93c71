"""What a running job has used, written down piece by piece: each piece once, and all of them together are the whole.

A job tells again and again what it used so far. What was not written yet is the next piece; a piece whose writing may
or may not have worked is given again, the same, until it is known to have worked. A line that a job has reported is a
piece of its own, and all lines with one id are one call; all else is added up by model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import reduce
from typing import Any

from coordination.base.money import ZERO, minus, plus
from coordination.domain.money.costs import CostRecord, again_id, call_id, correction_id
from coordination.domain.money.pricing import AMOUNTS
from coordination.domain.tasks.attempts import Usage

_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "total_tokens")
_MOST_AMOUNTS = 10
_COUNTED = ("_tokens", "_requests")
"""How the names of counts in ``extra`` end."""


@dataclass(slots=True)
class _Written:
    """Of one model, or of one call that has an id."""

    counts: dict[str, int] = field(default_factory=dict)
    known: Decimal = ZERO
    records: list[CostRecord] = field(default_factory=list)

    def add(self, one: CostRecord) -> None:
        self.records.append(one)
        self.known = plus(self.known, one.cost_usd or ZERO)
        for name, value in [*((name, getattr(one, name)) for name in _COUNTS), *_extra_counts(one.extra)]:
            self.counts[name] = self.counts.get(name, 0) + value


class UsageDeltas:
    """The usage of one attempt. *price* gives a piece its price where it says none, *record* makes it a record.

    Not thread-safe: whoever shares it holds a lock.
    """

    def __init__(self, price: Callable[[Usage], Usage], record: Callable[[Usage], CostRecord]) -> None:
        self._price = price
        self._record = record
        self._written: dict[str, _Written] = {}
        self._unsure: list[CostRecord] = []
        self._lines: dict[tuple[str, int], Usage] = {}  # what each line said when it was made a record
        self._marks: set[str] = set()  # of the lines that were made records
        self._calls: dict[str, _Written] = {}  # those with an id, as soon as there is a record
        self._said: dict[str, list[Usage]] = {}  # what lines say of each of them
        self._single: set[str] = set()  # the ids of these records
        self._alone: list[CostRecord] = []  # those of them that are written

    def due(self, used: Iterable[Usage]) -> list[CostRecord]:
        """What is to be written next of what was *used* so far; the same again until ``wrote`` is called."""
        if not self._unsure:
            whole = list(used)
            self._unsure = self._reported(whole)
            self._unsure += [self._record(self._price(piece)) for piece in self._pieces(_unnumbered(whole))]
        return list(self._unsure)

    def wrote(self, records: Sequence[CostRecord]) -> None:
        """These are in the ledger."""
        if records and records == self._unsure:
            self._unsure = []
        for one in records:
            if one.id in self._single:
                self._alone.append(one)
                continue
            self._written.setdefault(one.model, _Written()).add(one)

    def resume(self, records: Iterable[CostRecord], *, ours: Callable[[str], bool]) -> None:
        """Go on where another meter of the same attempt has ended, of which these *records* are in the ledger.

        *ours*: whether an id is one that the ledger makes for what no line was reported for.
        """
        for one in records:
            name = call_id(one)
            if not ours(name):
                self._marks.add(name)
                self._calls.setdefault(name, _Written()).add(one)
            elif one.corrects is None:
                self.wrote([one])
            elif one.model in self._written:
                known = self._written[one.model]
                known.known = plus(known.known, one.cost_usd or ZERO)

    @property
    def conflicts(self) -> dict[str, list[Usage]]:
        """The calls that were reported again with other numbers, by their ids, and what was said of each."""
        return {name: said for name, said in self._said.items() if len(said) > 1}

    @property
    def written(self) -> list[CostRecord]:
        """All that is in the ledger for sure."""
        return [*self._alone, *(one for known in self._written.values() for one in known.records)]

    def rest(self, used: Sequence[Usage]) -> list[CostRecord]:
        """All that is still to be written, now that the job has ended and this is what it *used* in all.

        What it says of its costs at its end goes before what was computed on the way: the difference is a correction.
        One that says nothing at its end has ended in the middle, and what it said on the way stays.
        """
        unsure = self._unsure
        self.wrote(unsure)
        made = [*unsure, *self._reported(used)]
        used = _unnumbered(used)
        if not self._written or not used:
            return [*made, *(self._record(self._price(one)) for one in used)]
        by_model: dict[str, list[Usage]] = {}
        for one in used:
            by_model.setdefault(one.model, []).append(one)
        for model, known in self._written.items():
            if model not in by_model:  # it calls the model otherwise at its end
                made += self._corrected(known, minus(known.known), settled=True)
        for model, group in by_model.items():
            if model not in self._written:
                made += [self._record(self._price(one)) for one in group]
                continue
            known, whole = self._written[model], _together(group)
            piece = _less(whole, known.counts)
            if whole.cost_usd is None:
                made += [] if piece is None else [self._record(self._price(piece))]
                continue
            left = plus(whole.cost_usd, minus(known.known))
            if piece is not None:
                made.append(self._record(replace(piece, cost_usd=max(left, ZERO))))
                left = min(left, ZERO)
            made += self._corrected(known, left, settled=True)
        return made

    def _reported(self, used: Iterable[Usage]) -> list[CostRecord]:
        """The records of lines that have none yet; one that was written over is another call, unless it has an id."""
        made = []
        named: dict[str, list[Usage]] = {}
        for one in used:
            if one.line is None:
                continue
            if one.id is not None:
                named.setdefault(one.id, []).append(one)
            elif self._is_new(one, one.line):
                made.append(self._record(self._price(one)))
        made += [more for name, group in named.items() if (more := self._more_of(name, group)) is not None]
        self._single |= {one.id for one in made}
        return made

    def _is_new(self, one: Usage, line: tuple[str, int]) -> bool:
        if one.mark is not None:
            known = one.mark in self._marks
            self._marks.add(one.mark)
            return not known
        known = self._lines.get(line) == one
        self._lines[line] = one
        return not known

    def _more_of(self, name: str, group: Sequence[Usage]) -> CostRecord | None:
        """A record of what is said of a call beyond what is on record. The larger counts: no provider bills less."""
        said = self._said.setdefault(name, [])
        for one in group:
            if not any(_is_same(one, other) for other in said):
                said.append(one)
        whole, known = _noted(_largest(said), said), self._calls.get(name)
        piece: Usage | None = whole
        if known is not None:
            piece = _less(whole, known.counts)
            told = None if whole.cost_usd is None else max(plus(whole.cost_usd, minus(known.known)), ZERO)
            if piece is None:
                if not told:
                    return None
                piece = replace(whole, input_tokens=0, output_tokens=0, cached_input_tokens=0, total_tokens=0)
                piece = replace(piece, extra={name: whole.extra[name] for name in (AMOUNTS,) if name in whole.extra})
            piece = replace(piece, id=again_id(name, len(known.records) + 1), cost_usd=told)
        made = self._record(self._price(piece or whole))
        self._calls.setdefault(name, _Written()).add(made)
        return made

    def _pieces(self, used: Iterable[Usage]) -> list[Usage]:
        by_model: dict[str, list[Usage]] = {}
        for one in used:
            by_model.setdefault(one.model, []).append(one)
        found = []
        for model, group in by_model.items():
            known, whole = self._written.get(model, _Written()), _together(group)
            piece = _less(whole, known.counts)
            if piece is None:
                continue
            told = None if whole.cost_usd is None else plus(whole.cost_usd, minus(known.known))
            found.append(replace(piece, cost_usd=told if told is not None and told >= 0 else None))
        return found

    def _corrected(self, known: _Written, left: Decimal, *, settled: bool) -> list[CostRecord]:
        """Corrections of what was written, so that *left* is added, and nothing stays unknown that is known now."""
        made = []
        for number, one in enumerate(reversed(known.records)):
            settles = settled and one.cost_usd is None
            share = left if number == 0 else ZERO
            if not share and not settles:
                continue
            made.append(
                replace(
                    one,
                    id=correction_id(one.id, 1),
                    input_tokens=0,
                    output_tokens=0,
                    cached_input_tokens=0,
                    total_tokens=0,
                    cost_usd=share,
                    extra={},
                    corrects=one.id,
                    settles=settles,
                )
            )
        return made


def _unnumbered(used: Iterable[Usage]) -> list[Usage]:
    """What no line was reported for: it may be told again, and grow."""
    return [one for one in used if one.line is None]


def _is_same(one: Usage, other: Usage) -> bool:
    numbers = ("model", "cost_usd", "input_tokens", "output_tokens", "cached_input_tokens")
    return all(getattr(one, name) == getattr(other, name) for name in numbers) and _total(one) == _total(other)


def _noted(whole: Usage, said: Sequence[Usage]) -> Usage:
    """The call with all amounts that were said of it, if they are several."""
    amounts = list(dict.fromkeys("unknown" if one.cost_usd is None else f"{one.cost_usd:f}" for one in said))
    return whole if len(amounts) == 1 else replace(whole, extra={**whole.extra, AMOUNTS: amounts[:_MOST_AMOUNTS]})


def _largest(said: Sequence[Usage]) -> Usage:
    """The largest of every number that was said of one call."""
    base = max(said, key=lambda one: (one.cost_usd or ZERO, _total(one)))
    extra: dict[str, int] = {}
    for one in said:
        extra |= {name: max(value, extra.get(name, 0)) for name, value in _extra_counts(one.extra)}
    return replace(
        base,
        input_tokens=max(one.input_tokens for one in said),
        output_tokens=max(one.output_tokens for one in said),
        cached_input_tokens=max(one.cached_input_tokens for one in said),
        total_tokens=max(map(_total, said)),
        extra={**base.extra, **extra},
    )


def _together(group: Sequence[Usage]) -> Usage:
    """One usage for all of one model; its price is known if all of them are."""
    if len(group) == 1:
        return replace(group[0], total_tokens=_total(group[0]))
    costs = [one.cost_usd for one in group]
    extra: dict[str, int] = {}
    for one in group:
        for name, value in _extra_counts(one.extra):
            extra[name] = extra.get(name, 0) + value
    last = group[-1]
    return replace(
        last,
        input_tokens=sum(one.input_tokens for one in group),
        output_tokens=sum(one.output_tokens for one in group),
        cached_input_tokens=sum(one.cached_input_tokens for one in group),
        total_tokens=sum(map(_total, group)),
        cost_usd=None if None in costs else reduce(plus, [cost for cost in costs if cost is not None], ZERO),
        id=None,
        extra={**last.extra, **extra},
    )


def _total(one: Usage) -> int:
    return one.input_tokens + one.output_tokens if one.total_tokens is None else one.total_tokens


def _extra_counts(extra: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(name, value) for name, value in extra.items() if name.endswith(_COUNTED) and type(value) is int]


def _less(whole: Usage, counts: Mapping[str, int]) -> Usage | None:
    """What is left of it without what was written; None when nothing is."""
    if not counts:
        return whole
    left: dict[str, Any] = {name: max((getattr(whole, name) or 0) - counts[name], 0) for name in _COUNTS}
    if not any(left.values()):
        return None
    fewer = {name: max(value - counts.get(name, 0), 0) for name, value in _extra_counts(whole.extra)}
    return replace(whole, **left, id=None, extra={**whole.extra, **fewer})
