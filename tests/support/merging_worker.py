"""A program that runs six tasks of a run at once, each in a worktree and merged, and prints their outcomes.

Its arguments: the checkout, the folder of the site, the run's id, the prefix of its tasks' keys, and a gate.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coordination.domain.tasks.attempts import AttemptEnd
from tests.support.repositories import Checkout, Site
from workers.runners.registry import Runners

TASKS = 6


def main(path: str, folder: str, run_id: str, prefix: str, gate: str) -> None:
    """Run the tasks; the checkout exists already."""
    checkout = object.__new__(Checkout)
    checkout.path = Path(path)
    site = Site(Runners(), checkout, Path(folder))
    site.run_id = run_id

    def run(key: str) -> AttemptEnd:
        return site.run(key, f"echo {key} > {key}.txt", gates=[gate])

    with ThreadPoolExecutor(TASKS) as pool:
        outcomes = [result.outcome for result in pool.map(run, [f"{prefix}-{number}" for number in range(TASKS)])]
    sys.stdout.write(" ".join(outcomes) + "\n")
    site.runners.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
