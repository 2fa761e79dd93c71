"""What a running job has used, written down piece by piece: each piece once, and all of them together are the whole.

A job tells again and again what it used so far. What was not written yet is the next piece; a piece whose writing may
or may not have worked is given again, the same, until it is known to have worked. A line that a job has reported is a
piece of its own; all else is added up by model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import reduce
from typing import Any

from coordination.domain.attempts import Usage
from coordination.domain.costs import CostRecord, correction_id
from coordination.money import ZERO, minus, plus

_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "total_tokens")
_COUNTED = ("_tokens", "_requests")
"""How the names of counts in ``extra`` end."""


@dataclass(slots=True)
class _Written:
    """Of one model."""

    counts: dict[str, int] = field(default_factory=dict)
    known: Decimal = ZERO
    records: list[CostRecord] = field(default_factory=list)


class Meter:
    """The usage of one attempt. *price* gives a piece its price where it says none, *record* makes it a record.

    Not thread-safe: whoever shares it holds a lock.
    """

    def __init__(self, price: Callable[[Usage], Usage], record: Callable[[Usage], CostRecord]) -> None:
        self._price = price
        self._record = record
        self._written: dict[str, _Written] = {}
        self._unsure: list[CostRecord] = []
        self._lines: dict[tuple[str, int], Usage] = {}  # what each line said when it was made a record
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
            known = self._written.setdefault(one.model, _Written())
            known.records.append(one)
            known.known = plus(known.known, one.cost_usd or ZERO)
            for name, value in [*((name, getattr(one, name)) for name in _COUNTS), *_extra_counts(one.extra)]:
                known.counts[name] = known.counts.get(name, 0) + value

    @property
    def written(self) -> list[CostRecord]:
        """All that is in the ledger for sure."""
        return [*self._alone, *(one for known in self._written.values() for one in known.records)]

    def rest(self, used: Sequence[Usage]) -> list[CostRecord]:
        """All that is still to be written, now that the job has ended and this is what it *used* in all.

        What it says of its costs at its end goes before what was computed on the way: the difference is a correction.
        """
        unsure = self._unsure
        self.wrote(unsure)
        made = [*unsure, *self._reported(used)]
        used = _unnumbered(used)
        if not self._written:
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
        """The records of lines that have none yet; one that was written over is another call."""
        made = []
        for one in used:
            if one.line is not None and self._lines.get(one.line) != one:
                self._lines[one.line] = one
                made.append(self._record(self._price(one)))
        self._single |= {one.id for one in made}
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
