"""One mapping of the document, read field by field: the right type, or a PlanError with its line. Knows no meanings."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from coordination.base.durations import parse_duration
from coordination.base.errors import PlanError, Refused, inside
from coordination.base.json_values import json_problem
from coordination.base.money import usd
from coordination.base.sizes import parse_size
from coordination.base.wording import did_you_mean, excerpt
from coordination.formats.plan.document import Document
from coordination.formats.plan.scalars import Unquoted

MOMENT_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_MOMENT = re.compile(MOMENT_PATTERN)
_Choice = TypeVar("_Choice", bound=StrEnum)


class Fields:
    """The fields of one mapping. ``where`` begins its sentences; ``None`` and a missing key are the same.

    ``path``: the mapping's own place in the document, such as ``tasks.fix.run``.
    """

    __slots__ = ("document", "path", "values", "where")

    def __init__(self, document: Document, values: dict[str, Any], where: str = "", path: str = "") -> None:
        self.document = document
        self.values = values
        self.where = where
        self.path = path

    def line(self, key: str) -> int | None:
        return self.document.line_of(self.values, key)

    def error(self, key: str, message: str, *, hint: str | None = None, field: str | None = None) -> PlanError:
        """Return a refusal at the line of *key*, for it or for another *field* of this mapping."""
        return self.document.error(
            f"{self.where}{message}", self.line(key), hint=hint, field=inside(self.path, field or key)
        )

    def caused(self, key: str, refused: Refused) -> PlanError:
        """Return *refused*, which the domain raised for the value of *key*, as a refusal at its line."""
        return self.error(key, refused.message, hint=refused.hint, field=inside(key, refused.field))

    def item_error(self, key: str, index: int, message: str, *, hint: str | None = None) -> PlanError:
        """Return a refusal at the line of one item of the list under *key*."""
        line = self.document.line_of(self.values[key], index)
        return self.document.error(f"{self.where}{message}", line, hint=hint, field=self.place(f"{key}[{index}]"))

    def place(self, key: str) -> str:
        """Return the place of *key* in the document."""
        return inside(self.path, key)

    def only(self, known: Collection[str], later: Mapping[str, str] | None = None) -> None:
        """Refuse the first key that is not *known*; *later* says of some what there is instead, for now."""
        for key in self.values:
            if key in known:
                continue
            if later is not None and key in later:
                raise self.error(key, f"this version has no {key} yet", hint=later[key])
            hint = did_you_mean(key, known) or f"There are {', '.join(known)}"
            raise self.error(key, f"the key {excerpt(key)} is unknown", hint=hint)

    def wrong(self, key: str, wanted: str, hint: str | None = None) -> PlanError:
        value = self.values[key]
        if isinstance(value, Unquoted) and hint is None:
            hint = f"YAML may read {value.text} as {value.reading}; write it in quotes if a text is meant"
        return self.error(key, f"{key} must be {wanted}, not {_named(value)}", hint=hint)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong(key, "a text", None if isinstance(value, dict | list) else _in_quotes(value))

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.wrong(key, "a list of texts")
        for index, item in enumerate(value):
            if not isinstance(item, str):
                message = f"{key} must hold texts, not {_named(item)}"
                raise self.item_error(key, index, message, hint=_in_quotes(item))
        return tuple(value)

    def whole(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self.wrong(key, "a whole number")

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise self.wrong(key, "a number")

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.wrong(key, "true or false", "Write true or false" if isinstance(value, Unquoted) else None)

    def duration(self, key: str) -> timedelta | None:
        value = self.values.get(key)
        if value is None:
            return None
        try:
            return parse_duration(value.text if isinstance(value, Unquoted) else value)
        except Refused as refused:
            raise self.error(key, f"{key}: {refused.message}", hint=refused.hint) from None

    def size(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        try:
            return parse_size(value.text if isinstance(value, Unquoted) else value)
        except Refused as refused:
            raise self.error(key, f"{key}: {refused.message}", hint=refused.hint) from None

    def moment(self, key: str) -> datetime | None:
        value = self.values.get(key)
        if value is None:
            return None
        moment = _moment(value.text if isinstance(value, Unquoted) else value)
        if moment is None:
            hint = "Write it like 2026-12-01T08:00:00+01:00 or 2026-12-01T07:00:00Z"
            raise self.wrong(key, "a moment with its offset from UTC", hint)
        return moment

    def money(self, key: str) -> Decimal | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str | int | float):
            raise self.wrong(key, "an amount of money", "Write it like 1.25")
        try:
            return usd(value)
        except Refused as refused:
            raise self.error(key, f"{key}: {refused.message}", hint=refused.hint) from None

    def choice(self, key: str, kinds: type[_Choice]) -> _Choice | None:
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, str) and value in list(kinds):
            return kinds(value)
        hint = did_you_mean(value, list(kinds)) if isinstance(value, str) else None
        raise self.wrong(key, " or ".join(kinds), hint)

    def json(self, key: str) -> dict[str, Any]:
        """A mapping of names to anything JSON can say."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(key, "a mapping of names to values")
        self._clear(key, value)
        if problem := json_problem(value):
            raise self.error(key, f"{key} {problem}")
        return value

    def _clear(self, key: str, value: dict[str, Any]) -> None:
        """Refuse words in *value* that only quotes would make clear."""
        stack: list[dict[str, Any] | list[Any]] = [value]
        seen = {id(value)}  # what several aliases share is read once
        while stack:
            container = stack.pop()
            for at, item in container.items() if isinstance(container, dict) else enumerate(container):
                if isinstance(item, Unquoted):
                    line = self.document.line_of(container, at) or self.line(key)
                    message = f"{self.where}{key} holds {item.text}, which may be read as {item.reading}"
                    hint = f'Write "{item.text}" for the text, or {_other_form(item)}'
                    raise self.document.error(message, line, hint=hint, field=self.place(key))
                if isinstance(item, dict | list) and id(item) not in seen:
                    seen.add(id(item))
                    stack.append(item)

    def whole_by_name(self, key: str) -> dict[str, int]:
        """A mapping of names to whole numbers."""
        inner = self.inner(key)
        if inner is None:
            return {}
        numbers = {name: inner.whole(name) for name in inner.values}
        return {name: number for name, number in numbers.items() if number is not None}

    def texts_by_name(self, key: str) -> dict[str, str]:
        """A mapping of names to texts."""
        inner = self.inner(key)
        if inner is None:
            return {}
        found = {}
        for name in inner.values:
            text = inner.text(name)
            if text is None:
                raise inner.wrong(name, "a text", 'Write "" for an empty one')
            found[name] = text
        return found

    def inner(self, key: str) -> Fields | None:
        """The mapping under *key*."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "a mapping")
        return Fields(self.document, value, f"{self.where}{key}: ", self.place(key))


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str) or not _MOMENT.match(value):
        return None
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _named(value: object) -> str:
    match value:
        case Unquoted():
            return excerpt(value.text)
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return str(value).lower()
        case None:
            return "nothing"
    return excerpt(value)


def _in_quotes(value: object) -> str | None:
    match value:
        case Unquoted():
            return f'YAML may read {value.text} as {value.reading}; write it in quotes: "{value.text}"'
        case bool():
            return f'Write it in quotes: "{str(value).lower()}"'
        case int() | float():
            return "Write it in quotes"
    return None


def _other_form(value: Unquoted) -> str:
    return (
        value.reading if value.reading in ("true", "false") else f"a form that only one reading has for {value.reading}"
    )
