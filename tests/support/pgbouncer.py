"""A real PgBouncer before a test's PostgreSQL, in transaction mode unless a test chooses otherwise."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from tests.support.processes import Processes, until
from tests.support.scratch import scratch_folder
from tests.support.services import missing

_PORT = 6432  # only the name of its socket
_PROGRAMS = ("/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer")  # Debian's is on root's PATH only

_SETTINGS = """
[databases]
* = {server}
[pgbouncer]
pool_mode = {mode}
auth_type = any
listen_port = {port}
unix_socket_dir = {folder}
default_pool_size = 6
max_client_conn = 300
server_lifetime = 5
ignore_startup_parameters = {ignored}
"""


@contextmanager
def pooler_of(processes: Processes, url: str, *, mode: str = "transaction", ignored: str = "") -> Iterator[str]:
    """Provide the URL of the database *url* through a pooler. *ignored*: start-up parameters that it drops."""
    program = shutil.which("pgbouncer") or next((name for name in _PROGRAMS if Path(name).exists()), None)
    if program is None:
        missing("PgBouncer", "no pgbouncer on PATH (apt-get install pgbouncer)")
    server = make_url(url)
    place = {
        "host": server.host or server.query.get("host"),
        "port": server.port or server.query.get("port"),
        "user": server.username or "postgres",
        "password": server.password,
    }
    with scratch_folder() as folder:
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            _SETTINGS.format(
                server=" ".join(f"{name}={value}" for name, value in place.items() if value),
                mode=mode,
                port=_PORT,
                folder=folder,
                ignored=ignored or "extra_float_digits",
            )
        )
        as_user: list[str] = []
        if os.geteuid() == 0:  # it refuses to be root
            owner = Path(str(place["host"])).stat().st_uid if str(place["host"]).startswith("/") else 65534
            folder.chmod(0o755)
            os.chown(folder, owner, -1)
            as_user = ["-u", pwd.getpwuid(owner).pw_name]
        processes.start(program, *as_user, settings)
        query = {"host": str(folder), "port": str(_PORT)}
        pooled = server.set(host=None, port=None, username=place["user"], query=query)
        plain = pooled.set(drivername="postgresql").render_as_string(hide_password=False)

        def answers() -> bool:
            try:
                with psycopg.connect(plain, connect_timeout=5) as connection:
                    return connection.execute("SELECT true").fetchone() == (True,)
            except psycopg.OperationalError:
                return False

        until(answers, within=timedelta(seconds=15), what="PgBouncer answers")
        yield pooled.render_as_string(hide_password=False)
