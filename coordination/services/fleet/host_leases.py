"""Lends ports of one machine to attempts: never one that another open attempt there has, or that is in use."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from coordination.base.errors import Refused, Unavailable
from coordination.base.wording import plural
from coordination.store.queries.fleet import host_leases
from coordination.store.queries.fleet.host_leases import LeaseKind


def lease_ports(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    attempt: int,
    *,
    host: str,
    count: int,
    ports: range,
    is_free: Callable[[int], bool],
) -> list[int]:
    """Lend *count* of *ports* to an open attempt until it ends, and return them in ascending order.

    Raises Unavailable when others have too many of them, and Refused when there can never be enough.
    """
    if count > len(ports):
        raise Refused(
            f"The task asks for {plural(count, 'port')}, and this machine lends {len(ports)} in all",
            hint="Ask for fewer in checkout.ports, or give COORD_PORTS a longer range",
        )
    host_leases.drop_ended(tx, host, LeaseKind.PORT)
    taken = host_leases.names_on(tx, host, LeaseKind.PORT)
    found: list[int] = []
    for port in ports:
        if str(port) in taken or not is_free(port):
            continue
        # Another worker of the machine may have been faster.
        if host_leases.add(tx, workspace_id, task_id, attempt, host=host, kind=LeaseKind.PORT, name=str(port)):
            found.append(port)
        if len(found) == count:
            return found
    raise Unavailable(
        f"Only {len(found)} of the ports {ports.start} to {ports.stop - 1} of this machine are free, and the task asks "
        f"for {count}: it waits until other attempts have ended",
        hint="COORD_PORTS gives a longer range",
    )
