"""JSON: values that columns store, and lines of JSON in files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import IntFlag
from typing import Any, BinaryIO, NoReturn

from coordination.base.errors import Refused
from coordination.base.wording import excerpt

MAX_DEPTH = 100
MAX_ITEMS = 1_000_000
_MAX_DIGITS_BITS = 4_096

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_BOM = b"\xef\xbb\xbf"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # an escape only after an odd number of backslashes
_SHOWN = 60


def text_problem(text: str) -> str | None:
    """Return what no database can store in *text*, NUL characters and unpaired surrogates, as a half sentence."""
    match = None if text.isascii() and "\0" not in text else _UNSTORABLE.search(text)
    if match is None:
        return None
    return (
        "contains a NUL character"
        if match.group() == "\0"
        else "contains half of a surrogate pair, which is not a character"
    )


def json_problem(value: object) -> str | None:
    """Return the first thing in *value* that JSON cannot express, as a half sentence with its place; else None."""
    stack: list[tuple[object, str, int]] = [(value, "", 0)]
    items = 0
    while stack:
        item, place, depth = stack.pop()
        items += 1
        if depth > MAX_DEPTH:
            return f"nests deeper than {MAX_DEPTH} levels, or contains itself"
        if items > MAX_ITEMS:
            return f"contains more than {MAX_ITEMS:,} values"
        if isinstance(item, dict):
            for name, inner in item.items():
                if not isinstance(name, str):
                    return f"has the key {excerpt(name)}{_at(place)}, which is not a text"
                if problem := text_problem(name):
                    return f"has a key{_at(place)} that {problem}"
                stack.append((inner, f"{place}.{name}" if len(place) + len(name) < _LONGEST else place, depth + 1))
        elif isinstance(item, list | tuple):
            stack.extend((inner, f"{place}[{index}]", depth + 1) for index, inner in enumerate(item))
        elif problem := _scalar_problem(item):
            return f"{problem}{_at(place)}"
    return None


def is_too_deep(value: object) -> bool:
    """Return whether *value*, parsed from JSON, nests too deeply to be stored, or processed by recursion."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list | tuple):
                inner.extend(item)
        level = inner
        if not level:
            return False
    return True


def to_json_types(value: Any) -> Any:  # noqa: PLR0911 - one line per type
    """Return *value* as JSON types: money as exact text, times as ISO 8601, durations in seconds, records as dicts."""
    match value:
        case IntFlag():
            return value.names() if hasattr(value, "names") else int(value)
        case None | bool() | int() | float():
            return value
        case str():
            return str(value)
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {str(key): to_json_types(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json_types(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return to_json_types(asdict(value))
    return str(value)


_LONGEST = 100


def _at(place: str) -> str:
    return f" at {place.removeprefix('.')}" if place else ""


def _scalar_problem(item: object) -> str | None:
    if isinstance(item, str):
        return text_problem(item)
    if isinstance(item, float):
        return None if math.isfinite(item) else f"contains {item}, which JSON cannot express,"
    if isinstance(item, int):  # bool is one
        return None if item.bit_length() <= _MAX_DIGITS_BITS else "contains a number of more than a thousand digits"
    return None if item is None else f"contains a {type(item).__name__}, which JSON cannot express,"


def read_lines(file: BinaryIO, *, most: int) -> Iterator[bytes]:
    """Yield the lines of a file. A line longer than *most* bytes is cut after one more byte, and is the last."""
    while line := file.readline(most + 1):
        yield line
        if len(line) > most:
            return


def parse_line(number: int, line: bytes, *, decimals: bool = False) -> tuple[str, dict[str, Any]] | None:
    """Return (text, object) of a line, or None for a blank line. Byte order mark and surrounding space are removed.

    *decimals*: numbers with a point or an exponent become exact Decimals instead of floats. Raises Refused.
    """
    line = (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r\n")
    if not line:
        return None
    try:
        text = line.decode("utf-8")
        record = (parse_json_exactly if decimals else parse_json)(text)
    except UnicodeDecodeError as error:
        raise Refused(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Refused(f"this is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise Refused("this JSON is nested too deeply") from None
    except InvalidOperation:
        raise Refused("the record contains a number that is too large") from None
    except ValueError as error:
        raise Refused(f"this is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise Refused(f"a record is a JSON object, not {show_value(record)}")
    if "\\u" in text and (problem := _escape_problem(text, record)):
        raise Refused(f"the record {problem}")
    return text, record


def show_value(value: object) -> str:
    """Return a value for a message: truncated JSON."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _escape_problem(text: str, record: object) -> str | None:
    """Return the problem of an escaped character that a database cannot store, or None."""
    if _NUL.search(text):
        return "contains a NUL character"
    return text_problem(json.dumps(record, ensure_ascii=False, default=str))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


parse_json = json.JSONDecoder(parse_constant=_no_constant).decode
"""Parse a text as strict JSON. Raises ValueError or RecursionError."""

parse_json_exactly = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant).decode
"""The same, with Decimals instead of floats."""
