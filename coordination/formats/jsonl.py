"""Parser of JSON Lines files of other programs. It accepts only strict JSON that a database can store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, BinaryIO, NoReturn

from coordination.base.errors import Refused
from coordination.base.json_values import text_problem

_BOM = b"\xef\xbb\xbf"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # an escape only after an odd number of backslashes
_SHOWN = 60


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
