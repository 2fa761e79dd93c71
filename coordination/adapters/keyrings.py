"""The operating system's keyring, through the library ``keyring``, if it is installed and one works.

A subprocess accesses it, because some backends wait for a person to unlock them, which must not block a worker.
Requests and answers go through stdin and stdout, never through arguments.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

_PATIENCE = 60.0  # seconds for a person to unlock it
_JOB_PATIENCE = 15.0  # for a job: nobody is there
_LEAST = 1  # the least recommended priority; backends with plain files are below


def put(service: str, user: str, value: str) -> bool:
    """Store *value* and read it back. Return whether that worked."""
    return _ask({"do": "put", "service": service, "user": user, "value": value}, _PATIENCE) is True


def find(service: str, user: str) -> str | None:
    """Return the stored value; None when no keyring returns it."""
    answer = _ask({"do": "find", "service": service, "user": user}, _JOB_PATIENCE)
    return answer if isinstance(answer, str) else None


def remove(service: str, user: str) -> None:
    """Delete the stored value, if a keyring has it."""
    _ask({"do": "remove", "service": service, "user": user}, _PATIENCE)


def name() -> str | None:
    """Return the name of the working keyring; None without one."""
    answer = _ask({"do": "name"}, _JOB_PATIENCE)
    return answer if isinstance(answer, str) else None


def is_installed() -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec("keyring") is not None


def _ask(question: dict[str, str], patience: float) -> Any:
    if not is_installed():
        return None
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(question).encode(),
            capture_output=True,
            check=False,
            timeout=patience,
            env=dict(os.environ),
        )
        return json.loads(result.stdout)
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
    """Answer one request. An error of a backend means that it does not work; its message may contain the secret."""
    try:
        answer = _answer(json.loads(sys.stdin.buffer.read()))
    except Exception:  # noqa: BLE001 - above
        answer = None
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
