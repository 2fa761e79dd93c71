"""One line of a foreign JSON Lines file: strict JSON that a store can hold, or a Refused that says what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, BinaryIO, NoReturn

from coordination.base.errors import Refused
from coordination.base.json_values import text_problem

_BOM = b"\xef\xbb\xbf"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # an escape only behind an odd number of backslashes
_SHOWN = 60


def lines(file: BinaryIO, *, most: int) -> Iterator[bytes]:
    """The lines of a file; of one that has more bytes than *most*, one byte more than that, and then nothing."""
    while line := file.readline(most + 1):
        yield line
        if len(line) > most:
            return


def parsed(number: int, line: bytes, *, decimals: bool = False) -> tuple[str, dict[str, Any]] | None:
    """(the line's text, its object), or None for a blank line. A byte order mark, line ends and margins are dropped.

    *decimals*: numbers with a point or an exponent become Decimal, exact to the digit, instead of float.
    """
    line = (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r\n")
    if not line:
        return None
    try:
        text = line.decode("utf-8")
        record = (_exact if decimals else _plain)(text)
    except UnicodeDecodeError as error:
        raise Refused(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Refused(f"this is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise Refused("this is not JSON that can be read: it nests too deep") from None
    except InvalidOperation:
        raise Refused("the record holds a number that nobody can keep") from None
    except ValueError as error:
        raise Refused(f"this is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise Refused(f"a record is a JSON object, not {shown(record)}")
    if "\\u" in text and (problem := _escape_problem(text, record)):
        raise Refused(f"the record {problem}")
    return text, record


def decoded(text: str) -> Any:
    """The JSON value of *text*; ValueError or RecursionError when it is none."""
    return _plain(text)


def decoded_exactly(text: str) -> Any:
    """The same with Decimal instead of float."""
    return _exact(text)


def shown(value: object) -> str:
    """A value in a message: as JSON, cut."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _escape_problem(text: str, record: object) -> str | None:
    """What an escape can bring in that a store cannot hold; everything else was settled by UTF-8 and JSON."""
    if _NUL.search(text):
        return "holds a NUL character"
    return text_problem(json.dumps(record, ensure_ascii=False, default=str))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_plain = json.JSONDecoder(parse_constant=_no_constant).decode
_exact = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant).decode
