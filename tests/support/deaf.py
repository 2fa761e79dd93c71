"""A remote-control command for workers under test (``-I tests.support.deaf``): their event loop drops its sockets.

This simulates a consumer that receives nothing after a reconnect, although it is connected and alive.
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import control_command


@control_command()
def forget_sockets(state: Any) -> dict[str, str]:
    """Stop polling every socket of the broker; nothing registers them again."""
    hub = state.consumer.hub
    state.consumer.connection.transport.cycle._fd_to_chan.clear()  # otherwise each round of the loop adds them
    for descriptor in list(hub.readers):
        hub.remove(descriptor)
    return {"ok": "deaf"}
