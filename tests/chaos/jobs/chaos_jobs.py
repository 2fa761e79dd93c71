"""Jobs that leave evidence: one line per action, appended in one write to a file of the run. Standard library only.

A line: KIND TASK ATTEMPT EXECUTION PID PARENT UPTIME [MORE]; see tests/chaos/evidence.py for the kinds. The order of
the lines is the order of the actions, whatever any clock shows.
"""

import json
import os
import time
from pathlib import Path

_TICK = 0.02


class Evidence:
    """The file, and the execution that writes."""

    def __init__(self, path):
        task, attempt, execution = os.environ["COORD_ATTEMPT_ID"].split(".")
        self.execution = execution
        self._who = f"{task} {attempt} {execution} {os.getpid()} {os.getppid()}"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def say(self, kind, more=""):
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(self._file, f"{kind} {self._who} {up:.4f} {more}".rstrip().encode() + b"\n")

    def work(self, seconds):
        """Have effects for that long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(_TICK, left))
            self.say("T")

    def __enter__(self):
        self.say("B")
        return self

    def __exit__(self, kind, error, trace):
        self.say("E" if kind is None else "F")
        os.close(self._file)


def noop(evidence):
    """End at once: a job for batches."""
    with Evidence(evidence) as mine:
        return mine.execution


def busy(evidence, seconds):
    """Have effects for a while."""
    with Evidence(evidence) as mine:
        mine.work(seconds)
        return mine.execution


def flaky(evidence, seconds, failures):
    """Fail at the first attempts."""
    with Evidence(evidence) as mine:
        mine.work(seconds)
        if int(os.environ["COORD_ATTEMPT"]) <= failures:
            raise RuntimeError("not yet")
        return mine.execution


def spender(evidence, seconds, calls, microdollars):
    """Report costs: intent first (c), then the report itself, then that it was made (C)."""
    with Evidence(evidence) as mine:
        for number in range(calls):
            mine.work(seconds / calls)
            name = f"{mine.execution}-{number}"
            mine.say("c", f"{name} {microdollars}")
            call = {"model": "chaos", "cost_usd": f"0.{microdollars:06d}", "call": name, "input_tokens": 7}
            if number % 2:  # some name their calls, for others the product generates names
                call["id"] = name
            with Path(os.environ["COORD_COSTS"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(call) + "\n")
            mine.say("C", f"{name} {microdollars}")
        return mine.execution
