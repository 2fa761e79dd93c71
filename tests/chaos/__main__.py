"""``python -m tests.chaos``: one run by seed; exit 0 without a violation, 1 with any, 2 for bad input."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.chaos.run import Options, kinds_named, run
from tests.chaos.schedule import RATE
from tests.support.processes import mark_descendants


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, run, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--faults", help="only kinds whose name has one of these parts, separated by commas")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=200, help="open tasks that there are always")
    parser.add_argument("--rate", type=float, default=RATE, help="faults drawn a second in a storm")
    parser.add_argument("--report", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--keep", type=Path, default=Path(".coord/chaos"), help="where a failed run is kept")
    parser.add_argument("--keep-always", action="store_true", help="keep a run that did not fail, too")
    settings = parser.parse_args(arguments)
    mark_descendants()
    kinds = kinds_named(settings.faults)
    options = Options(
        seed=settings.seed,
        minutes=settings.minutes,
        store=settings.store,
        faults=tuple(kinds) if kinds else None,
        workers=settings.workers,
        backlog=settings.backlog,
        rate=settings.rate,
        keep=settings.keep / f"seed-{settings.seed}-{settings.store}",
        keep_always=settings.keep_always,
    )
    try:
        report = run(options, _say)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if settings.report is not None:
        settings.report.write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    _say(
        f"{report.count} faults ({report.count / max(report.tormented, 1):.1f}/s), {report.tasks} tasks, "
        f"{report.attempts} attempts, {report.lost_attempts} of them lost with their worker, "
        f"{report.decisions} decisions of a person, {report.tracebacks} tracebacks in logs, "
        f"{report.deadlocks} deadlocks"
    )
    for violation in report.violations[:40]:
        _say(f"VIOLATION {violation.kind}: {violation.what}")
    if report.violations:
        _say(f"{len(report.violations)} broken promises with seed {options.seed}; again: {options.replay}")
        return 1
    _say("every promise was kept")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
