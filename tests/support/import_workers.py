"""A program that imports every module of ``workers`` and prints what that read or opened; correct output is empty.

It runs in a process of its own, with invalid settings in its environment.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

OPENS = {"socket.connect", "sqlite3.connect", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec"}


class WatchedEnvironment(MutableMapping[str, str]):
    """The environment, which records the reads of our settings."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._environment = environment
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        if name.startswith("COORD_"):
            self.asked.add(name)
        return self._environment[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._environment[name] = value

    def __delitem__(self, name: str) -> None:
        del self._environment[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._environment)

    def __len__(self) -> int:
        return len(self._environment)


def main() -> None:
    """Write one line for each forbidden effect of an import, and the number of modules."""
    watched = WatchedEnvironment(os.environ)
    os.environ = watched  # type: ignore[assignment]  # noqa: B003 - the processes' own environment stays as it is
    opened: list[str] = []

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in OPENS:
            opened.append(f"{event} {arguments[:2]}")

    sys.addaudithook(look)
    import workers

    names = [name for _, name, _ in pkgutil.walk_packages(workers.__path__, "workers.")]
    for name in names:
        importlib.import_module(name)
        for event in opened:
            sys.stdout.write(f"{name} does {event}\n")
        for variable in sorted(watched.asked):
            sys.stdout.write(f"{name} reads {variable}\n")
        opened.clear()
        watched.asked.clear()
    sys.stdout.write(f"{len(names)} modules\n")


if __name__ == "__main__":
    main()
