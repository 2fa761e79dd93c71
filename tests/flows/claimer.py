"""A process of a race: claims as many as it can of the tasks on its command line, and prints the claims."""

from __future__ import annotations

import json
import sys

from coordination.store.engine import open_store
from tests.support.races import claimed_in_batches


def main() -> None:
    """Run with the arguments store URL, workspace, worker; ids come as JSON on standard input after the first line."""
    url, workspace, worker = sys.argv[1:4]
    store = open_store(url)
    with store.read():
        print("ready", flush=True)  # noqa: T201 - the test waits for it
    ids = json.loads(sys.stdin.readline())
    got = claimed_in_batches(store, workspace, worker, ids)
    print(json.dumps(got), flush=True)  # noqa: T201
    store.close()


if __name__ == "__main__":
    main()
