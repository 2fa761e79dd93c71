"""A remote-control command for workers under test (``-I tests.support.deaf``): their event loop forgets its sockets.

So it looks from outside when a consumer no longer hears its broker after a reconnect: connected, alive, deaf to all.
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import control_command


@control_command()
def forget_sockets(state: Any) -> dict[str, str]:
    """Stop listening to every socket of the broker; nothing registers them again."""
    hub = state.consumer.hub
    state.consumer.connection.transport.cycle._fd_to_chan.clear()  # or every round of the loop would add them again
    for descriptor in list(hub.readers):
        hub.remove(descriptor)
    return {"ok": "deaf"}
