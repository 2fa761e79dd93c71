"""Describes records field by field: one table per record gives its reader, writer, JSON Schema, checks and docs. Pure.

A table is a tuple of ``Field``. A ``ValueType`` knows one type of value in three directions: how a value of a plan file
or of stored JSON becomes the record's attribute, how it is written, and the JSON Schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any, TypeVar, cast

from coordination.base.errors import Refused, inside
from coordination.base.wording import did_you_mean, excerpt

_NEW_NAMES = {"workspace": "checkout"}

Schema = Mapping[str, Any]
_Record = TypeVar("_Record")


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, eq=False)
class ValueType:
    """One type of value.

    *load* takes a value as files and JSON hold it, and its place, which refusals name; it returns the attribute of the
    record. *write* returns the value as JSON and plan files hold it. *schema*: of a value that is there.
    """

    load: Callable[[Any, str], Any]
    schema: Schema
    write: Callable[[Any], Any] = _same


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of a record. *attribute*: its name in the record, where that differs from its *name* in files.

    *meaning*: what the docs and editors say of it, in Markdown.
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
    """Return the record that *make* builds from the mapping that stands at *place*; Refused for what is wrong in it.

    A value of None counts as left out. *what*: how sentences call the mapping.
    """
    known, what = names_of(table), what or place or "it"
    check_keys(body, known, what, place=place)
    for field in table:
        if field.required and body.get(field.name) is None:
            raise Refused(f"{what} has no {field.name}", field=inside(place, field.name))
    values = {
        known[key].attribute: known[key].type.load(value, inside(place, key))
        for key, value in body.items()
        if value is not None
    }
    return at(place, make, **values)


def at(place: str, make: Callable[..., _Record], *values: Any, **named: Any) -> _Record:
    """Return what *make* builds; the field of what it refuses is seen from *place*."""
    try:
        return make(*values, **named)
    except Refused as refused:
        name, field = place.rpartition(".")[2], refused.field or ""
        relative = field.removeprefix(name).removeprefix(".") if re.match(rf"{re.escape(name)}(\W|$)", field) else field
        refused.field = f"{place}{relative}" if relative.startswith("[") else inside(place, relative) or None
        raise


def check_keys(value: Mapping[Any, Any], known: Collection[str], what: str, *, place: str = "") -> None:
    """Refuse the first key of *value*, which stands at *place*, that is not *known*."""
    for key in value:
        if key not in known:
            hint = f"Write {_NEW_NAMES[key]}" if _NEW_NAMES.get(key) in known else did_you_mean(str(key), known)
            hint = hint or f"It may have: {', '.join(known)}"
            raise Refused(f"{what} has no key {excerpt(key)}", hint=hint, field=inside(place, str(key)))


def write_fields(record: Any, table: Table) -> dict[str, Any]:
    """Return the record as JSON and plan files hold it, without the fields that are as by default."""
    usual = _defaults_of(cast("Hashable", type(record)))
    written = {}
    for field in table:
        value = getattr(record, field.attribute)
        if field.required or not _is_usual(value, usual.get(field.attribute)):
            written[field.name] = field.type.write(value)
    return written


def _is_usual(value: Any, usual: Any) -> bool:
    return value is None or value == usual or (isinstance(value, Sequence | Mapping) and not value and not usual)


def plain(value: Any) -> Any:
    """Return *value* with plain lists and dicts in place of whatever sequences and mappings it holds."""
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
    """Return the JSON Schema of a mapping with exactly these fields, for editors."""
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
    """Return the schema that allows null, too."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str) and schema["type"] not in {"object", "array"}:
        return {**schema, "type": [schema["type"], "null"]}
    if "anyOf" in schema and "type" not in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [dict(schema), {"type": "null"}]}
