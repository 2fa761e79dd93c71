"""Lease ports of a machine to attempts: none that another open attempt has, or that is in use."""

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
    """Lease *count* of *ports* to an open attempt until it ends, and return them in ascending order.

    Raises Unavailable when too many are in use, and Refused when there can never be enough.
    """
    if count > len(ports):
        raise Refused(
            f"The task asks for {plural(count, 'port')}, and this machine has {len(ports)} in all",
            hint="Ask for fewer in checkout.ports, or set COORD_PORTS to a longer range",
        )
    host_leases.delete_ended(tx, host, LeaseKind.PORT)
    leased_names = host_leases.names_on(tx, host, LeaseKind.PORT)
    leased: list[int] = []
    for port in ports:
        if str(port) in leased_names or not is_free(port):
            continue
        # Another worker of the machine may have leased it meanwhile.
        if host_leases.add(tx, workspace_id, task_id, attempt, host=host, kind=LeaseKind.PORT, name=str(port)):
            leased.append(port)
        if len(leased) == count:
            return leased
    raise Unavailable(
        f"Only {len(leased)} of the ports {ports.start} to {ports.stop - 1} of this machine are free, and the task "
        f"asks for {count}: it waits until other attempts have ended",
        hint="Set COORD_PORTS to a longer range",
    )
