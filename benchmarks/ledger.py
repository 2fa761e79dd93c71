"""Importing a costs.jsonl: lines a second, checked and stored with their sums, and what the process takes for it."""

from __future__ import annotations

import random
import resource
import time
from datetime import datetime, timedelta
from pathlib import Path

import psutil

from benchmarks import goals
from benchmarks.bench import STORES, Bench
from benchmarks.measure import series
from benchmarks.report import Line
from coordination import connect
from coordination.settings import load_settings

_LINES = 1_000_000
_BEGIN = "2026-01-01T00:00:00"


def measure(bench: Bench) -> list[Line]:
    """Of a file of new records, and of the same file once more."""
    count = bench.size(_LINES)
    path = bench.folder / "costs.jsonl"
    _write(path, count)
    lines = []
    for kind in STORES:
        rates, cpu, again, memory = [], [], [], []
        for _ in range(bench.rounds):
            with connect(load_settings(bench.environment(kind, database=5))) as co:
                before, began, used = _memory(), time.perf_counter(), time.process_time()
                done = co.costs.import_file(path)
                rates.append(count / (time.perf_counter() - began) / 1000)
                cpu.append((time.process_time() - used) / count * 1e6)
                memory.append(_peak() - before)
                if done.new != count or co.costs.check().wrong:
                    raise RuntimeError("the ledger is not what the file says")
                began = time.perf_counter()
                co.costs.import_file(path)
                again.append(count / (time.perf_counter() - began) / 1000)
        goal = goals.IMPORT if kind == "postgresql" else None
        lines += [
            Line(f"import of a costs.jsonl, {count:,} lines", kind, series(rates, "thousand/s"), goal=goal),
            Line("the same file again", kind, series(again, "thousand/s")),
            Line("CPU of the importing process, a line", kind, series(cpu, "us")),
            Line("memory that it takes more", kind, series(memory, "MB")),
        ]
    return lines


def _write(path: Path, count: int) -> None:
    dice = random.Random(1)  # noqa: S311 - no secret
    begin = datetime.fromisoformat(_BEGIN)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            at = begin + timedelta(seconds=20 * number)
            given, made = dice.randrange(10_000), dice.randrange(2_000)
            file.write(
                f'{{"id":"{dice.getrandbits(32):08x}-1b2c-4d3e-8f90-{number:012x}","usage":{{"model":"claude-sonnet-4-'
                f'{number % 5}","input_tokens":{given},"output_tokens":{made},"total_tokens":{given + made},'
                f'"cost_usd":{given * 3e-6 + made * 15e-6:.8f},'
                f'"timestamp":"{at.isoformat()}.{dice.randrange(10**9):09d}Z"}},"session_id":"{number // 200:08x}"}}\n'
            )


def _memory() -> float:
    return psutil.Process().memory_info().rss / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
