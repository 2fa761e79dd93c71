"""Runs one attempt as a worker does and kills itself before or after its n-th call of git.

Started with ``python -m`` and JSON. Prints the number of calls when there were fewer than n.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.support.repositories import Checkout, Site
from workers.runners.registry import Runners
from workers.workspaces import git


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    calls = 0
    original = git.Git.__call__

    def counted(self: git.Git, *arguments: str, **settings: Any) -> git.GitOutput:
        nonlocal calls
        calls += 1
        if calls == asked["call"] and not asked["after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        said = original(self, *arguments, **settings)
        if calls == asked["call"] and asked["after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return said

    git.Git.__call__ = counted  # type: ignore[method-assign]
    checkout = object.__new__(Checkout)
    checkout.path = Path(asked["checkout"])
    site = Site(Runners(), checkout, Path(asked["site"]))
    site.run_id, site.ids = asked["run"], {asked["key"]: asked["task"]}
    result = site.run(asked["key"], asked["work"], stored=False, **asked.get("more", {}))
    site.runners.close()
    sys.stdout.write(json.dumps({"calls": calls, "outcome": result.outcome, "error": result.error}))


if __name__ == "__main__":
    main()
