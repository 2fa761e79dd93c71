"""Text of jobs without the sequences that a terminal would execute."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, movements
    r"|\x9b[0-?]*[ -/]*[@-~]"  # the same, in one character
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC and the like: titles, links
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # two characters, or with an intermediate one
)
KEPT = frozenset("\n\t\u200c\u200d")  # joiners are parts of emoji and scripts
_REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """Return *text* without escape sequences, and U+FFFD for other control and direction characters."""
    if text.isprintable() or all(line.isprintable() for line in text.split("\n")):
        return text
    text_only = _SEQUENCES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(letter if letter.isprintable() or letter in KEPT else _REPLACEMENT for letter in text_only)
