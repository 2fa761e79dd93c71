"""A program that runs four jobs, as a worker does, until it is killed; it prints its marker and its warden's pid.

Its arguments: the folder for the jobs' temporary files, and ``strict`` for the strict sandbox.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.jobs import Bench
from tests.support.strict import strict_sandbox
from workers.runners.registry import Runners

JOBS = [
    {"shell": "setsid sleep 600 & sleep 0.1; echo ready; trap '' TERM; sleep 600"},
    {"shell": "setsid env -i sleep 600 & sleep 0.1; echo ready; sleep 600"},
    {"python": "job_functions:wait_with_daemon"},
    {"python": "job_functions:stubborn"},
]


def main() -> None:
    """Start the jobs, and wait for them."""
    scratch = Path(sys.argv[1])
    runners = Runners(sandbox=strict_sandbox(scratch) if "strict" in sys.argv[2:] else None)
    bench = Bench(runners, scratch)
    jobs = [bench.start(work) for work in JOBS]
    for job in jobs:
        job.moved.wait()
    warden = runners.launcher._warden.process
    assert warden is not None
    sys.stdout.write(f"{runners.launcher.marker} {warden.pid}\n")
    sys.stdout.flush()
    for job in jobs:
        job.thread.join()


if __name__ == "__main__":
    main()
