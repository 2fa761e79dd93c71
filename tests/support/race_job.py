"""A job, or a gate, of the money race: ``python -P -m tests.support.race_job PART CALLS EVIDENCE``.

For each call it writes ``c`` to EVIDENCE, then reports the call, then writes ``C`` to EVIDENCE. Every other call has
an id that other attempts use for calls of theirs, too.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib


def main() -> None:
    part, calls, evidence = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    execution = f"{os.environ['COORD_TASK_ID']}.{os.environ['COORD_ATTEMPT']}.{part}"
    for number in range(calls):
        name = f"{execution}.{number}"
        micro = zlib.crc32(name.encode()) % 100_000 + 1
        call = {"model": "race", "input_tokens": 1, "cost_usd": f"0.{micro:06d}", "call": name}
        if number % 2:
            call["id"] = f"{part}-{number}"
        _append(evidence, f"c {name} {micro}\n")
        _append(os.environ["COORD_COSTS"], json.dumps(call) + "\n")
        _append(evidence, f"C {name} {micro}\n")
        time.sleep(0.1)


def _append(path: str, line: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
