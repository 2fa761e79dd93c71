"""``python -m benchmarks [PART …]``: measure everything, or some parts; ``--help`` lists them."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from benchmarks import flow, memory, releasing, report, startup, submission
from benchmarks.bench import open_bench

PARTS = {
    "throughput": flow.throughput,
    "hops": flow.hops,
    "fan": flow.fan,
    "submission": submission.measure,
    "startup": startup.measure,
    "releasing": releasing.measure,
    "memory": memory.measure,
}


def main(arguments: list[str]) -> int:
    """Measure, print, and save what was measured in full size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure beside raw Celery.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="sizes times this, for a trial (nothing is saved)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of ours (default: 1)")
    asked = parser.parse_args(arguments)
    strangers = [part for part in asked.parts if part not in PARTS]
    if strangers:
        parser.error(f"there is no part {strangers[0]!r}; there are: {', '.join(PARTS)}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)  # so that the servers and workers are stopped
    command = " ".join(["python -m benchmarks", *arguments])
    with open_bench(rounds=asked.rounds, scale=asked.scale, workers=asked.workers) as bench:
        for name in asked.parts or PARTS:
            began = time.perf_counter()
            print(f"== {name}", flush=True)
            lines = PARTS[name](bench)
            for line in lines:
                print(report.show(line), flush=True)
            print(f"   ({time.perf_counter() - began:.0f} s)", flush=True)
            if asked.scale == 1.0:
                report.save(name, lines, command=command, workers=asked.workers, rounds=asked.rounds)
    if asked.scale == 1.0:
        print("Written to benchmarks/README.md and benchmarks/results.json.")
    return 0


def _interrupted(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
