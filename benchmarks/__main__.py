"""``python -m benchmarks [PART …]``: measure everything, or some parts; ``--help`` lists them."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.bench import RECORDS, Bench, open_bench
from benchmarks.parts import BY_DEFAULT, PARTS
from benchmarks.workflow import MONTAGE, BadWorkflowError, read

_QUICK = 0.02


def main(arguments: list[str]) -> int:
    """Measure, print, and save what was measured in full size."""
    asked = _asked(arguments)
    scale, rounds = (_QUICK, 1) if asked.quick else (asked.scale, asked.rounds)
    saved = scale == 1.0 and not asked.no_save
    try:
        read(asked.workflow)
    except BadWorkflowError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)  # so that the servers and workers are stopped
    command = " ".join(["python -m benchmarks", *arguments])
    began = time.monotonic()
    sizes = {"workers": asked.workers, "records": asked.records}
    with open_bench(rounds=rounds, scale=scale, workflow=asked.workflow, **sizes) as bench:
        for name in asked.parts or BY_DEFAULT:
            lines = _measure(bench, name)
            if saved:
                servers = bench.server_versions()
                how = report.about(command=command, workers=bench.workers, rounds=bench.rounds, servers=servers)
                report.save(name, lines, how, order=tuple(PARTS))
    print(f"Everything took {time.monotonic() - began:.0f} s.")
    if saved:
        print("Written to benchmarks/README.md and benchmarks/results.json.")
    return 0


def _measure(bench: Bench, name: str) -> list[report.Line]:
    """One part: the sides it needs, and its figures on the terminal."""
    part = PARTS[name]
    bench.keep(peers=part.peers, ours=part.ours)
    began = time.monotonic()
    print(f"== {name}", flush=True)
    lines = part.measure(bench)
    for line in lines:
        print(report.show(line), flush=True)
    print(f"   ({time.monotonic() - began:.0f} s)", flush=True)
    return lines


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure beside other systems.")
    listed = ", ".join(BY_DEFAULT)
    others = ", ".join(name for name in PARTS if name not in BY_DEFAULT)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of: {listed} (default: all), or: {others}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="sizes times this, for a trial (nothing is saved)")
    parser.add_argument("--no-save", action="store_true", help="leave benchmarks/README.md and results.json alone")
    parser.add_argument("--quick", action="store_true", help=f"one round at scale {_QUICK}: does everything run?")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of ours (default: 1)")
    parser.add_argument(
        "--workflow", type=Path, default=MONTAGE, metavar="FILE", help="another recorded workflow (see benchmarks/data)"
    )
    parser.add_argument(
        "--records",
        type=int,
        default=RECORDS,
        help=f"cost records beside which sums are measured (default: {RECORDS:,})",
    )
    asked = parser.parse_args(arguments)
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    if asked.rounds < 1 or asked.workers < 1 or asked.records < 1 or not 0 < asked.scale <= 1:
        parser.error("--rounds, --workers and --records are at least 1, --scale is above 0 and at most 1")
    return asked


def _interrupted(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
