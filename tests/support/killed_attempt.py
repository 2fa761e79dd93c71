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
    options: dict[str, Any] = json.loads(sys.argv[1])
    calls = 0
    original = git.Git.__call__

    def counted(self: git.Git, *arguments: str, **settings: Any) -> git.GitOutput:
        nonlocal calls
        calls += 1
        if calls == options["call"] and not options["after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        output = original(self, *arguments, **settings)
        if calls == options["call"] and options["after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return output

    git.Git.__call__ = counted  # type: ignore[method-assign]
    checkout = object.__new__(Checkout)
    checkout.path = Path(options["checkout"])
    site = Site(Runners(), checkout, Path(options["site"]))
    site.run_id, site.ids = options["run"], {options["key"]: options["task"]}
    result = site.run(options["key"], options["work"], stored=False, **options.get("more", {}))
    site.runners.close()
    sys.stdout.write(json.dumps({"calls": calls, "outcome": result.outcome, "error": result.error}))


if __name__ == "__main__":
    main()
