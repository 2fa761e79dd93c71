"""``coord mcp`` inside a job: standard library only, until a tool that reads the store is called."""

from __future__ import annotations

import contextlib
import os
import threading
from functools import cache
from typing import TYPE_CHECKING

from coordination.mcp_server import reading, relay, reporting

if TYPE_CHECKING:
    from coordination.api.connection import Coordination

_NAMES_A_STORE = ("COORD_DATABASE_URL", "COORD_HOME")
_INTERRUPTED = 130


def serve() -> int:
    """Serve until stdin ends, with the reading tools where the environment of the job names a store."""
    has_store = any(name in os.environ for name in _NAMES_A_STORE)
    try:
        with contextlib.ExitStack() as stack:
            lock = threading.Lock()

            @cache
            def connect() -> Coordination:
                from coordination.cli.options import open_connection

                with lock:
                    return stack.enter_context(open_connection())

            relay.serve(reporting.TOOLS, reading.tools(connect) if has_store else ())
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0
