"""Helpers for views: the fields of a record, and a view without its empty values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any


def fields_of(record: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass with their values as they are, but for those *without*."""
    return {field.name: getattr(record, field.name) for field in fields(record) if field.name not in without}


def compact(view: Mapping[str, Any]) -> dict[str, Any]:
    """Return a view without keys whose value is empty: for readers who pay for each word."""
    return {name: value for name, value in view.items() if value not in (None, "", (), [], {}) and value is not False}


def listing(name: str, view: Callable[[Any], dict[str, Any]], records: Iterable[Any]) -> dict[str, Any]:
    """Return the document of a list: the views of the records under one name."""
    return {name: [view(one) for one in records]}
