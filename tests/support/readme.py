"""README's commands as one script: every console block in order, in one shell, with the files that README shows.

``python -m tests.support.readme`` prints it. A line before each block gives its number.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence

from tests.support.sources import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILES = {"yaml": "plan.yaml", "python": "example.py"}
LEFT_OUT = {"make test": "it runs the tests that this script is one of"}
BEGINS = "=== README: "


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of every block of code."""
    return _BLOCK.findall(text)


def script(*, leave_out: Sequence[str] = (), replaced: Mapping[str, str] | None = None) -> str:
    """Return a script for bash, to be run in a clone. It ends at the first command that fails.

    *leave_out*: blocks that begin so are not run, besides ``LEFT_OUT``. *replaced*: other values for texts in it.
    """
    lines = ["set -eo pipefail"]
    for language, written in blocks((ROOT / "README.md").read_text(encoding="utf-8")):
        if language in _FILES:
            lines.append(f"cat > {_FILES[language]} <<'END OF FILE'\n{written}END OF FILE")
        elif language == "console" and not written.startswith((*LEFT_OUT, *leave_out)):
            lines.append(f"echo {shlex.quote(BEGINS + written.splitlines()[0])}")
            text = written
            for old, new in (replaced or {}).items():
                text = text.replace(old, new)
            lines.append(text.rstrip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(script(leave_out=["export COORD_DATABASE_URL"]))
