"""Helpers for views: the fields of a record, and a view without its empty values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any


def fields_of(record: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass and their unconverted values, except those in *without*."""
    return {field.name: getattr(record, field.name) for field in fields(record) if field.name not in without}


def compact(view: Mapping[str, Any]) -> dict[str, Any]:
    """Return a view without keys whose value is empty, for models, which pay for each token."""
    return {name: value for name, value in view.items() if value not in (None, "", (), [], {}) and value is not False}


def listing(name: str, view: Callable[[Any], dict[str, Any]], records: Iterable[Any]) -> dict[str, Any]:
    """Return a document with the views of *records* under *name*."""
    return {name: [view(record) for record in records]}
