"""Cuts an agent's output into lines of JSON. An object that was written into the middle of a line is found there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from workers.runners.agents.base import json_line
from workers.runners.output import decode

LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one line of JSON; a longer one is left out."""

# Claude Code writes this event whenever its provider says it, now and then into the middle of another line.
_ASIDE = '{"type":"rate_limit_event"'


class JsonLines:
    """*read* gets each JSON object, *show* each line that is none, *remark* a sentence about what was left out.

    *whole*: all of the output is one object.
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
        self._half = b""  # of a line that another one interrupted
        self._too_long = False

    def feed(self, data: bytes) -> None:
        """What came next."""
        if self._whole:
            self._keep(data)
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._take()
        self._keep(rest)

    def close(self) -> None:
        """Nothing more comes."""
        self._take()
        if self._half:
            self._show(self._half)
            self._half = b""

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
        elif (found := json_line(line)) is not None:
            self._read(found)
        elif line.strip() and not self._mended(line):
            self._show(line)

    def _mended(self, line: bytes) -> bool:
        """Whether the line is the rest of one that was interrupted, or was interrupted itself."""
        if self._half:
            joined, self._half = self._half + line, b""
            if (found := json_line(joined)) is not None:
                self._read(found)
                return True
            self._show(joined[: -len(line)])
        text = decode(line)
        start = text.find(_ASIDE)
        if start < 0:
            return False
        try:
            _, length = json.JSONDecoder().raw_decode(text[start:])
        except (ValueError, RecursionError):
            return False
        aside = json_line(text[start : start + length].encode())
        if aside is not None:
            self._read(aside)
        rest = (text[:start] + text[start + length :]).encode()
        if (found := json_line(rest)) is not None:
            self._read(found)
        else:
            self._half = rest
        return True
