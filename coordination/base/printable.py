"""Text that a terminal only shows: what jobs say, without what a terminal would obey. Pure."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, movements
    r"|\x9b[0-?]*[ -/]*[@-~]"  # the same, in one character
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC and the like: titles, links
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # two characters, or with an intermediate one
)
KEPT = frozenset("\n\t\u200c\u200d")  # joiners make emoji and scripts what they are
_REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """*text* without escape sequences; other control characters and marks of direction become U+FFFD."""
    if text.isprintable() or all(line.isprintable() for line in text.split("\n")):
        return text
    found = _SEQUENCES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(letter if letter.isprintable() or letter in KEPT else _REPLACEMENT for letter in found)
