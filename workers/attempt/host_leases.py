"""Leases ports and database copies of this host to attempts, and releases those of ended attempts."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import structlog

from coordination.base.errors import CoordinationError
from coordination.base.host import host
from coordination.domain.jobs.preparation import Database, copy_url, is_sqlite
from coordination.domain.tasks.attempts import Claim
from coordination.services.fleet.host_leases import lease_ports
from coordination.store.engine import Store
from coordination.store.queries.fleet import host_leases
from coordination.store.queries.fleet.host_leases import HostLease, LeaseKind
from workers.attempt import database_copies
from workers.runners import untrusted_files

log = structlog.get_logger()

_PREFIX = "coord_"


class PortAndDatabaseLeases:
    """Leases ports and database copies to one attempt."""

    def __init__(self, store: Store, claim: Claim, scratch: Path, *, ports: range) -> None:
        self._store = store
        self._claim = claim
        self._owner = claim.workspace_id, claim.task_id, claim.attempt
        self._ports = ports
        self._scratch = scratch
        self._copies: list[tuple[str, str]] = []  # URL of the original, name of the copy

    def ports(self, count: int) -> list[int]:
        """Lease *count* free ports until the attempt ends. Raises Unavailable or Refused."""
        lease = partial(lease_ports, host=host(), count=count, ports=self._ports, is_free=is_port_free)
        return self._store.transact(lambda tx: lease(tx, *self._owner))

    def database(self, database: Database) -> str:
        """Copy the database and return the URL of the copy. Raises Unavailable or Refused."""
        claim, url = self._claim, database_copies.read_source_url(database)
        name = f"{_PREFIX}{claim.task_id.replace('-', '')}_{claim.attempt}"
        if is_sqlite(url):
            folder = self._scratch / name
            folder.mkdir(mode=0o700)
            self._copies.append((url, str(folder)))
            name = str(folder / "copy.db")
        add = partial(host_leases.add, host=host(), kind=LeaseKind.DATABASE, name=name, origin=database.clone)
        self._store.transact(lambda tx: add(tx, *self._owner))
        if is_sqlite(url):
            database_copies.copy_sqlite_file(url, claim.workdir, Path(name))
        else:
            self._copies.append((url, name))  # before the copy, which may fail half-way
            database_copies.copy_database(url, name)
        return copy_url(url, name)

    def release(self) -> None:
        """Drop the copies. Those that cannot be dropped now are dropped by a later cleanup."""
        copies, self._copies = self._copies, []
        for url, name in copies:
            if is_sqlite(url):
                untrusted_files.delete_quietly(name)
                continue
            try:
                database_copies.drop_copy(url, name)
                _forget(self._store, [name])
            except CoordinationError as error:
                log.warning("a database copy could not be dropped yet", database=name, why=error.message)


def drop_ended_leases(store: Store) -> int:
    """Release the leases of ended attempts on this host; return how many database copies were dropped."""
    with store.read() as tx:
        ended = host_leases.list_ended(tx, host(), LeaseKind.DATABASE)
        ports = host_leases.list_ended(tx, host(), LeaseKind.PORT)
    dropped = [lease.name for lease in ended if _drop(lease)]
    if dropped:
        _forget(store, dropped)
    if ports:
        store.transact(lambda tx: host_leases.delete_ended(tx, host(), LeaseKind.PORT))
    return len(dropped)


def _forget(store: Store, names: Sequence[str]) -> None:
    store.transact(lambda tx: host_leases.delete_named(tx, host(), LeaseKind.DATABASE, names))


def _drop(lease: HostLease) -> bool:
    try:
        url = database_copies.read_source_url(Database(lease.origin or ""))
        if not is_sqlite(url):  # a file is deleted with its worker's folder
            database_copies.drop_copy(url, lease.name)
    except (CoordinationError, ValueError) as error:
        log.warning("a database copy could not be dropped yet", database=lease.name, why=str(error))
        return False
    return True


def is_port_free(port: int) -> bool:
    """Return whether no process on this host uses the port."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - any listener counts
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # no IPv6 here
        with closing(probe):
            try:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
            except OSError:
                if family == socket.AF_INET or _has_ipv6():
                    return False
    return True


def _has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6, socket.SOCK_STREAM)) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
