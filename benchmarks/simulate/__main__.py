"""``python -m benchmarks.simulate measure | check | ask``: what lies past this machine."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.simulate import times
from benchmarks.simulate.times import FILE, BadTimesError


def main(arguments: Sequence[str]) -> int:
    """Measure service times, check the model against this machine, or ask it for larger fleets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("what", choices=("measure", "check", "ask"))
    parser.add_argument(
        "--times", type=Path, default=FILE, metavar="FILE", help="service times (default: the kept ones)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="sizes times this, for a trial")
    parser.add_argument("--workers", type=int, nargs="+", help="check: worker processes (default: 1 2 4)")
    asked = parser.parse_args(arguments)
    if not 0 < asked.scale <= 1:
        parser.error("--scale is above 0 and at most 1")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)  # so that the servers and workers are stopped
    if asked.what == "measure":
        return _measure(asked)
    try:
        found = times.read(asked.times)
    except BadTimesError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if asked.what == "check":
        from benchmarks.simulate import check

        return check.check(found, workers=asked.workers or (1, 2, 4), scale=asked.scale)
    from benchmarks.simulate import ask

    return ask.ask(found, scale=asked.scale)


def _measure(asked: argparse.Namespace) -> int:
    from dataclasses import replace

    from benchmarks import report
    from benchmarks.bench import open_bench
    from benchmarks.simulate.measure import measure

    with open_bench(rounds=1, scale=asked.scale, workers=1) as bench:
        found = measure(bench, print)
        how = report.about(command="", workers=1, rounds=1, servers=bench.server_versions())
    servers = ", ".join(f"{name} {version}" for name, version in how["servers"].items())
    about = f"{how['date']}, {how['machine']}, load {how['load']} at the end, Python {how['python']}, {servers}"
    times.write(replace(found, about=about), asked.times)
    print(f"flush {found.flush * 1000:.2f} ms, Redis {found.redis_trip * 1e6:.0f} us; written to {asked.times}")
    return 0


def _interrupted(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
