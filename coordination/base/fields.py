"""Records described field by field: one table per record gives its reader, writer, JSON Schema, checks and docs. Pure.

A table is a tuple of ``Field``. A ``ValueType`` describes one type of value: how a value of a plan file or of stored
JSON becomes the record's attribute, how it is written, and its JSON Schema.
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
