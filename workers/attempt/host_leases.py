"""What this machine lends to an attempt, and what is taken back from attempts that have ended."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
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


class HostResources:
    """Lends ports and copies of databases to one attempt."""

    def __init__(self, store: Store, claim: Claim, scratch: Path, *, ports: range) -> None:
        self._store = store
        self._claim = claim
        self._ports = ports
        self._scratch = scratch
        self._lent: list[tuple[str, str]] = []  # the URL of the original, and the name of the copy

    def ports(self, count: int) -> list[int]:
        """Lend that many free ports until the attempt ends. Raises Unavailable or Refused."""
        claim = self._claim
        return self._store.transact(
            lambda tx: lease_ports(
                tx,
                claim.workspace_id,
                claim.task_id,
                claim.attempt,
                host=host(),
                count=count,
                ports=self._ports,
                is_free=is_free,
            )
        )

    def database(self, wanted: Database) -> str:
        """Copy the database and return the URL of the copy. Raises Unavailable or Refused."""
        claim, url = self._claim, database_copies.url_of(wanted)
        name = f"{_PREFIX}{claim.task_id.replace('-', '')}_{claim.attempt}"
        if is_sqlite(url):
            folder = self._scratch / name
            folder.mkdir(mode=0o700)
            self._lent.append((url, str(folder)))
            name = str(folder / "copy.db")
        self._store.transact(
            lambda tx: host_leases.add(
                tx,
                claim.workspace_id,
                claim.task_id,
                claim.attempt,
                host=host(),
                kind=LeaseKind.DATABASE,
                name=name,
                origin=wanted.clone,
            )
        )
        if is_sqlite(url):
            database_copies.clone_file(url, claim.workdir, Path(name))
        else:
            self._lent.append((url, name))  # also when it fails half-way
            database_copies.clone(url, name)
        return copy_url(url, name)

    def give_back(self) -> None:
        """Drop the copies; what cannot be dropped now is dropped when somebody clears up."""
        lent, self._lent = self._lent, []
        for url, name in lent:
            if is_sqlite(url):
                untrusted_files.delete_quietly(name)
                continue
            try:
                database_copies.drop(url, name)
                _forget(self._store, [name])
            except CoordinationError as error:
                log.warning("the copy of a database is not dropped yet", database=name, why=error.message)


def take_back(store: Store) -> int:
    """Drop the copies of databases that attempts left on this machine, however they ended; how many."""
    with store.read() as tx:
        ended = host_leases.list_ended(tx, host(), LeaseKind.DATABASE)
        ports = host_leases.list_ended(tx, host(), LeaseKind.PORT)
    gone = [lease for lease in ended if _dropped(lease)]
    if gone:
        _forget(store, [lease.name for lease in gone])
    if ports:
        store.transact(lambda tx: host_leases.delete_ended(tx, host(), LeaseKind.PORT))
    return len(gone)


def _forget(store: Store, names: Sequence[str]) -> None:
    store.transact(lambda tx: host_leases.delete_named(tx, host(), LeaseKind.DATABASE, names))


def _dropped(lease: HostLease) -> bool:
    try:
        url = database_copies.url_of(Database(lease.origin or ""))
        if not is_sqlite(url):  # a file is gone with its worker's folder
            database_copies.drop(url, lease.name)
    except (CoordinationError, ValueError) as error:
        log.warning("the copy of a database is not dropped yet", database=lease.name, why=str(error))
        return False
    return True


def is_free(port: int) -> bool:
    """Whether nothing on this machine uses the port."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - to see who listens
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
