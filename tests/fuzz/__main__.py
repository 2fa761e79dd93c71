"""``python -m tests.fuzz``: so many inputs by a seed; exit 0 when all checks passed, 1 when not, 2 for bad input."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordination.store import schema
from coordination.store.engine import open_store
from tests.fuzz import messages, names, reports
from tests.support.fleet import Fleet, fleet_on
from tests.support.processes import Processes
from tests.support.redis import running_redis

TARGETS = ("reports", "messages", "names")


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, run, and print failures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all targets together")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one (may be repeated)")
    options = parser.parse_args(arguments)
    if options.inputs < 1:
        parser.error("--inputs must be at least 1")
    targets = options.target or TARGETS
    failed = 0
    for place, target in enumerate(targets):
        inputs = options.inputs // len(targets) + (place < options.inputs % len(targets))
        began = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
                count = fuzz(target, Path(folder), seed=options.seed, inputs=inputs)
        except Exception:  # noqa: BLE001 - the other targets are tested, too
            failed += 1
            traceback.print_exc()
            again = f"python -m tests.fuzz --seed {options.seed} --inputs {inputs} --target {target}"
            _say(f"FAILED {target}: again: {again}")
        else:
            _say(f"{target}: {count:,} inputs, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def fuzz(target: str, folder: Path, *, seed: int, inputs: int) -> int:
    """Fuzz one target on parts of its own."""
    if target == "names":
        return names.fuzz(folder, seed=seed, inputs=inputs)
    with fleet_in(folder) as fleet:
        return (reports if target == "reports" else messages).fuzz(fleet, seed=seed, inputs=inputs)


@contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """Provide a fleet on SQLite and a Redis of its own."""
    url = f"sqlite:///{folder / 'coord.db'}"
    store = open_store(url)
    schema.prepare(store)
    store.close()
    processes = Processes()
    with running_redis() as redis:
        try:
            with fleet_on(processes, url, redis.url, folder) as fleet:
                yield fleet
        finally:
            processes.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
