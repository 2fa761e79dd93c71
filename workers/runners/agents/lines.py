"""Splits an agent's output into JSON lines, also where an object was written into the middle of another line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from workers.runners.agents.base import parse_json_line
from workers.runners.output import decode

LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one JSON line; longer lines are left out."""

# Claude Code sometimes writes this event into the middle of another line.
_INTERRUPTION = '{"type":"rate_limit_event"'


class JsonLines:
    """Splits a stream. *read* gets each JSON object, *show* each other line, *remark* a note about an omitted line.

    *whole*: the whole output is one object.
    """

    def __init__(
        self,
        read: Callable[[Mapping[str, Any]], None],
        show: Callable[[bytes], None],
        remark: Callable[[str], None],
        *,
        whole: bool = False,
    ) -> None:
        self._read = read
        self._show = show
        self._remark = remark
        self._whole = whole
        self._line = bytearray()
        self._interrupted = b""  # the first part of an interrupted line
        self._too_long = False

    def feed(self, data: bytes) -> None:
        """Take the next output."""
        if self._whole:
            self._keep(data)
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._take()
        self._keep(rest)

    def close(self) -> None:
        """End the stream."""
        self._take()
        if self._interrupted:
            self._show(self._interrupted)
            self._interrupted = b""

    def _keep(self, data: bytes) -> None:
        if len(self._line) + len(data) > LONGEST_LINE:
            self._too_long = True
        if self._too_long:
            self._line.clear()
        else:
            self._line += data

    def _take(self) -> None:
        line, too_long = bytes(self._line), self._too_long
        self._line.clear()
        self._too_long = False
        if too_long:
            self._remark(f"a line of more than {LONGEST_LINE:,} bytes was left out")
        elif (value := parse_json_line(line)) is not None:
            self._read(value)
        elif line.strip() and not self._rejoin(line):
            self._show(line)

    def _rejoin(self, line: bytes) -> bool:
        """Handle an interrupted line or the rest of one; return False for other lines."""
        if self._interrupted:
            joined, self._interrupted = self._interrupted + line, b""
            if (value := parse_json_line(joined)) is not None:
                self._read(value)
                return True
            self._show(joined[: -len(line)])
        text = decode(line)
        start = text.find(_INTERRUPTION)
        if start < 0:
            return False
        try:
            _, length = json.JSONDecoder().raw_decode(text[start:])
        except (ValueError, RecursionError):
            return False
        event = parse_json_line(text[start : start + length].encode())
        if event is not None:
            self._read(event)
        rest = (text[:start] + text[start + length :]).encode()
        if (value := parse_json_line(rest)) is not None:
            self._read(value)
        else:
            self._interrupted = rest
        return True
