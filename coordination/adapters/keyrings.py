"""The keyring of the operating system, through the library of that name, where it is installed and one works.

A process of its own asks it: some backends wait for a person who unlocks them, and must not hold a worker. What is
asked goes there on stdin and comes back on stdout, never among the arguments.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

_PATIENCE = 60.0  # seconds in which a person may unlock it
_BOUND = 15.0  # for a job
_LEAST = 1  # the priority from which on a backend is recommended; those that keep plain files are below


def put(service: str, user: str, value: str) -> bool:
    """Keep *value* and read it back; whether a keyring did that."""
    return _ask({"do": "put", "service": service, "user": user, "value": value}, _PATIENCE) is True


def find(service: str, user: str) -> str | None:
    """What was kept; None when no keyring gives it."""
    found = _ask({"do": "find", "service": service, "user": user}, _BOUND)
    return found if isinstance(found, str) else None


def remove(service: str, user: str) -> None:
    """Forget what was kept, if a keyring has it."""
    _ask({"do": "remove", "service": service, "user": user}, _PATIENCE)


def name() -> str | None:
    """What the keyring that works is called; None when there is none."""
    found = _ask({"do": "name"}, _BOUND)
    return found if isinstance(found, str) else None


def is_installed() -> bool:
    """Whether the library is there."""
    return importlib.util.find_spec("keyring") is not None


def _ask(question: dict[str, str], patience: float) -> Any:
    if not is_installed():
        return None
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(question).encode(),
            capture_output=True,
            check=False,
            timeout=patience,
            env=dict(os.environ),
        )
        return json.loads(ended.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None


def _answer(question: dict[str, str]) -> Any:
    import keyring
    from keyring.backends import fail, null

    backend = keyring.get_keyring()
    if isinstance(backend, fail.Keyring | null.Keyring) or backend.priority < _LEAST:
        return None
    if question["do"] == "name":
        return str(backend.name)
    service, user = question["service"], question["user"]
    match question["do"]:
        case "put":
            backend.set_password(service, user, question["value"])
            return backend.get_password(service, user) == question["value"]
        case "find":
            return backend.get_password(service, user)
        case "remove":
            backend.delete_password(service, user)
    return None


def main() -> None:
    """Answer one question. Whatever a backend raises means that it does not work; its words may hold the secret."""
    try:
        answer = _answer(json.loads(sys.stdin.buffer.read()))
    except Exception:  # noqa: BLE001 - above
        answer = None
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
