"""Checks and converts values that people and programs write: types of values, and records of named fields.

A table, which is a tuple of ``Field``, describes a record once: its reader, writer, JSON Schema, checks and docs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar, cast

from coordination.base import durations, sizes
from coordination.base.errors import Refused, inside
from coordination.base.json_values import json_problem
from coordination.base.money import usd
from coordination.base.wording import did_you_mean, excerpt, without_user

_NEW_NAMES = {"workspace": "checkout"}

MOMENT_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_MOMENT = re.compile(MOMENT_PATTERN)

Schema = Mapping[str, Any]
_Record = TypeVar("_Record")


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, eq=False)
class ValueType:
    """One type of value.

    *load* converts a value of a file or of JSON to the record's attribute; its second argument is the value's place,
    for errors. *write* converts it back. *schema*: of a value that is not null.
    """

    load: Callable[[Any, str], Any]
    schema: Schema
    write: Callable[[Any], Any] = _same


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of a record. *attribute*: its name in the record, if that differs from its *name* in files.

    *meaning*: its description in docs and editors, in Markdown.
    """

    name: str
    type: ValueType
    meaning: str = ""
    required: bool = False
    attribute: str = ""

    def __post_init__(self) -> None:
        if not self.attribute:
            object.__setattr__(self, "attribute", self.name)


Table = tuple[Field, ...]


@lru_cache(maxsize=256)
def names_of(table: Table) -> dict[str, Field]:
    """Return the fields of a table by name."""
    return {field.name: field for field in table}


def load_fields(
    body: Mapping[Any, Any], table: Table, make: Callable[..., _Record], *, place: str = "", what: str = ""
) -> _Record:
    """Return the record that *make* builds from the mapping at *place*. Raises Refused for invalid values.

    None counts as missing. *what*: the name of the mapping in errors.
    """
    fields_by_name, what = names_of(table), what or place or "it"
    check_keys(body, fields_by_name, what, place=place)
    for field in table:
        if field.required and body.get(field.name) is None:
            raise Refused(f"{what} has no {field.name}", field=inside(place, field.name))
    values = {
        fields_by_name[key].attribute: fields_by_name[key].type.load(value, inside(place, key))
        for key, value in body.items()
        if value is not None
    }
    return at(place, make, **values)


def at(place: str, make: Callable[..., _Record], *values: Any, **named: Any) -> _Record:
    """Return the result of *make*; prefix the field of its refusals with *place*."""
    try:
        return make(*values, **named)
    except Refused as refused:
        name, field = place.rpartition(".")[2], refused.field or ""
        relative = field.removeprefix(name).removeprefix(".") if re.match(rf"{re.escape(name)}(\W|$)", field) else field
        refused.field = f"{place}{relative}" if relative.startswith("[") else inside(place, relative) or None
        raise


def check_keys(
    value: Mapping[Any, Any], allowed: Collection[str], what: str, *, place: str = "", field: str | None = None
) -> None:
    """Refuse the first key of *value*, the mapping at *place*, that is not *allowed*; *field*: instead of the key."""
    for key in value:
        if key not in allowed:
            hint = f"Write {_NEW_NAMES[key]}" if _NEW_NAMES.get(key) in allowed else did_you_mean(str(key), allowed)
            hint = hint or f"It may have: {', '.join(allowed)}"
            raise Refused(f"{what} has no key {excerpt(key)}", hint=hint, field=field or inside(place, str(key)))


def write_fields(record: Any, table: Table) -> dict[str, Any]:
    """Return the record in the form of JSON and plan files, without fields with default values."""
    defaults = _defaults_of(cast("Hashable", type(record)))
    values = {}
    for field in table:
        value = getattr(record, field.attribute)
        if field.required or not _is_default(value, defaults.get(field.attribute)):
            values[field.name] = field.type.write(value)
    return values


def _is_default(value: Any, default: Any) -> bool:
    return value is None or value == default or (isinstance(value, Sequence | Mapping) and not value and not default)


def plain(value: Any) -> Any:
    """Return *value* with plain lists and dicts in place of other sequences and mappings."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@lru_cache(maxsize=64)
def _defaults_of(record: Any) -> dict[str, Any]:
    return {
        spec.name: spec.default_factory() if spec.default_factory is not MISSING else spec.default
        for spec in fields(record)
        if spec.default is not MISSING or spec.default_factory is not MISSING
    }


# --- the schema


def schema_of(table: Table) -> dict[str, Any]:
    """Return the JSON Schema, for editors, of a mapping with exactly these fields."""
    required = [field.name for field in table if field.required]
    return {
        "type": "object",
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": {field.name: _schema_of(field) for field in table},
    }


def _schema_of(field: Field) -> dict[str, Any]:
    schema = dict(field.type.schema) if field.required else nullable(field.type.schema)
    return schema | ({"description": _without_links(field.meaning)} if field.meaning else {})


def _without_links(markdown: str) -> str:
    parts = markdown.split("](")
    return "".join([parts[0], *(part.partition(")")[2] for part in parts[1:])]).replace("[", "", len(parts) - 1)


def nullable(schema: Schema) -> dict[str, Any]:
    """Return a schema that also allows null."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str) and schema["type"] not in {"object", "array"}:
        return {**schema, "type": [schema["type"], "null"]}
    if "anyOf" in schema and "type" not in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [dict(schema), {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class Unquoted:
    """A plain word that is a text in one version of YAML and not in another. ``reading``: the other meaning."""

    text: str
    reading: str


def type_refusal(place: str, wanted: str, value: object, *, hint: str | None = None) -> Refused:
    """Return the refusal of a value that is not *wanted*, such as "a text"."""
    hint = hint or _in_quotes(value, wanted)
    return Refused(f"{place} must be {wanted}, not {_shown(value)}", hint=hint, field=place)


def _shown(value: object) -> str:
    if isinstance(value, Mapping | list | tuple):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    shown = value.text if isinstance(value, Unquoted) else value
    return excerpt(without_user(shown) if isinstance(shown, str) and "://" in shown else shown)


def _in_quotes(value: object, wanted: str) -> str | None:
    if isinstance(value, Unquoted):
        return f'YAML may read {value.text} as {value.reading}; write it in quotes if a text is meant: "{value.text}"'
    if isinstance(value, int | float) and wanted == "a text":
        return f'Write it in quotes: "{_shown(value)}"'
    return None


def _plain_word(value: Any) -> Any:
    return value.text if isinstance(value, Unquoted) else value


def _instance(*types: type, wanted: str) -> Callable[[Any, str], Any]:
    def load(value: Any, place: str) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise type_refusal(place, wanted, value)
        return value

    return load


_load_text = _instance(str, wanted="a text")


def _load_texts(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise type_refusal(place, "a list of texts", value)
    return tuple(_load_text(item, f"{place}[{index}]") for index, item in enumerate(value))


def _load_by_name(load: Callable[[Any, str], Any], *, sparse: bool = False) -> Callable[[Any, str], dict[str, Any]]:
    def load_all(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise type_refusal(place, "a mapping", value)
        if (name := next((name for name in value if not isinstance(name, str)), None)) is not None:
            raise Refused(f"{place} has the key {excerpt(name)}, which is not a text", field=place)
        return {name: load(item, f"{place}.{name}") for name, item in value.items() if not (sparse and item is None)}

    return load_all


def _load_anything(value: Any, place: str) -> Any:
    stack, seen = [value], {id(value)}  # a value with several aliases is checked once
    while stack:
        item = stack.pop()
        if isinstance(item, Unquoted):
            other = item.reading if item.reading in ("true", "false") else f"a form that is only {item.reading}"
            message = f"{place} contains {item.text}, which may be read as {item.reading}"
            raise Refused(message, hint=f'Write "{item.text}" for the text, or {other}', field=place)
        inner = item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else ()
        stack.extend(each for each in inner if id(each) not in seen)
        seen.update(map(id, inner))
    if problem := json_problem(value):
        raise Refused(f"{place} {problem}", field=place)
    return value


def _load_mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise type_refusal(place, "a mapping of names to values", value)
    return cast("dict[str, Any]", _load_anything(dict(value), place))


def _loader(parse: Callable[[Any], Any], *types: type) -> Callable[[Any, str], Any]:
    """Return a loader that applies *parse* to the value, unless it already has one of *types*."""

    def load(value: Any, place: str) -> Any:
        if types and isinstance(value, types):
            return value
        try:
            return parse(_plain_word(value))
        except Refused as refused:
            raise Refused(f"{place}: {refused.message}", hint=refused.hint, field=place) from None

    return load


def _load_moment(value: Any, place: str) -> datetime:
    text_ = _plain_word(value)
    if isinstance(text_, str) and _MOMENT.match(text_):
        try:
            return datetime.fromisoformat(text_.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    hint = "Write it like 2026-12-01T08:00:00+01:00 or 2026-12-01T07:00:00Z"
    raise type_refusal(place, "a moment with its offset from UTC", value, hint=hint)


def _load_money(value: Any, place: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise type_refusal(place, "an amount of money", value, hint="Write it like 1.25")
    return cast("Decimal", _loader(usd)(value, place))


def number_or_text(amount: Decimal) -> float | int | str:
    """Return an amount as a number if a reader gets the same amount from it, otherwise as a text."""
    if amount == amount.to_integral_value():
        return int(amount)
    return float(amount) if Decimal(repr(float(amount))) == amount else f"{amount:f}"


def text(
    *,
    shortest: int = 1,
    longest: int | None = None,
    pattern: str | None = None,
    words: Sequence[str] = (),
    description: str | None = None,
) -> ValueType:
    """Return the type of a text; the limits are part of the schema only, the domain checks the value."""
    limits = {"minLength": shortest or None, "maxLength": longest, "pattern": pattern, "description": description}
    schema: dict[str, Any] = {"type": "string"} | {name: limit for name, limit in limits.items() if limit is not None}
    return ValueType(_load_text, {"enum": list(words)} if words else schema)


def texts(*, shortest: int = 0, most: int | None = None) -> ValueType:
    """Return the type of a list of texts."""
    item: dict[str, Any] = {"type": "string"} | ({"minLength": shortest} if shortest else {})
    schema: dict[str, Any] = {"type": "array", "items": item} | ({"maxItems": most} if most else {})
    return ValueType(_load_texts, schema, list)


def whole(lowest: int, highest: int | None = None, *, checked: bool = False) -> ValueType:
    """Return the type of a whole number. *checked*: check its limits here; else the domain checks them."""
    schema: dict[str, Any] = {"type": "integer", "minimum": lowest}
    schema |= {} if highest is None else {"maximum": highest}
    limits = f" from {lowest:,} to {highest:,}" if checked else ""

    def load(value: Any, place: str) -> int:
        outside = checked and isinstance(value, int) and not lowest <= value <= (highest or value)
        if isinstance(value, bool) or not isinstance(value, int) or outside:
            raise type_refusal(place, f"a whole number{limits}", value)
        return value

    return ValueType(load, schema)


def number(lowest: float, highest: float, *, checked: bool = False) -> ValueType:
    """Return the type of a number. *checked*: check its limits here; else the domain checks them."""
    limits = f" from {lowest} to {highest}" if checked else ""

    def load(value: Any, place: str) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (checked and not lowest <= value <= highest)
        ):
            raise type_refusal(place, f"a number{limits}", value)
        return value

    return ValueType(load, {"type": "number", "minimum": lowest, "maximum": highest})


def choice(kinds: type[StrEnum]) -> ValueType:
    """Return the type of one word of an enumeration."""

    def load(value: Any, place: str) -> StrEnum:
        if isinstance(value, str) and value in list(kinds):
            return kinds(value)
        hint = did_you_mean(value, list(kinds)) if isinstance(value, str) else None
        raise type_refusal(place, " or ".join(kinds), value, hint=hint)

    return ValueType(load, {"enum": list(kinds)}, lambda value: value.value)


def by_name(inner: ValueType) -> ValueType:
    """Return the type of a mapping of names to values of one type, without those that are None."""
    schema = {"type": "object", "additionalProperties": nullable(inner.schema)}
    return ValueType(_load_by_name(inner.load, sparse=True), schema, dict)


def record(
    make: Callable[..., Any], table: Table, *, more: Schema | None = None, write: Callable[[Any], Any] | None = None
) -> ValueType:
    """Return the type of a nested record; *more* is added to its schema."""

    def load(value: Any, place: str) -> Any:
        if not isinstance(value, Mapping):
            raise type_refusal(place, f"a mapping with the keys {', '.join(names_of(table))}", value)
        return load_fields(value, table, make, place=place)

    def write_record(value: Any) -> Any:
        return plain(value) if isinstance(value, Mapping) else write_fields(value, table)

    return ValueType(load, {**schema_of(table), **(more or {})}, write or write_record)


TEXT = text()
TEXTS = texts()
TEXTS_BY_NAME = replace(by_name(text(shortest=0)), load=_load_by_name(_load_text))
MAPPING = ValueType(_load_mapping, {"type": "object"}, plain)
ANYTHING = ValueType(_load_anything, {}, plain)
FLAG = ValueType(_instance(bool, wanted="true or false"), {"type": "boolean"})
DURATION = ValueType(
    _loader(durations.parse_duration, timedelta),
    {
        "anyOf": [
            {"type": "string", "pattern": durations.PATTERN},
            {"type": "number", "minimum": 0, "maximum": durations.MAX_DURATION.total_seconds()},
        ],
        "description": "30m, 1h30m, 90s, 250ms, 2d, or a number of seconds.",
    },
    durations.write_duration,
)
SIZE = ValueType(
    _loader(sizes.parse_size),
    {
        "anyOf": [
            {"type": "string", "pattern": sizes.PATTERN},
            {"type": "number", "minimum": 1, "maximum": sizes.LARGEST},
        ],
        "description": "2GiB, 512MiB, 1.5GB, or a number of bytes.",
    },
    sizes.write_size,
)
MONEY = ValueType(_load_money, {"type": ["number", "string"], "minimum": 0}, number_or_text)
MOMENT = ValueType(
    _load_moment, {"type": "string", "pattern": MOMENT_PATTERN}, lambda moment: moment.astimezone(UTC).isoformat()
)
