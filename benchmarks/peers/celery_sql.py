"""Celery with its SQL result backend: a row for every result, in a database of the same PostgreSQL."""

from __future__ import annotations

import time

import psycopg

from benchmarks.peers import PATIENCE, Place, celery


class Peer(celery.Peer):
    """As raw Celery, but every result is kept."""

    about = "one worker, two prefork children, a row per result on PostgreSQL"
    keeps_results = True

    def __init__(self, place: Place) -> None:
        self._database = place.new_database()
        super().__init__(place)
        self._rows = psycopg.connect(self._database, autocommit=True)

    def results_url(self) -> str:
        """SQLAlchemy's way to write it, and Celery's mark."""
        return self._database.replace("postgresql://", "db+postgresql+psycopg://")

    def no_ops(self, count: int) -> float:
        """Seconds from the first message sent to the last result stored."""
        before = self._stored()
        began = time.perf_counter()
        self._send(count)
        while self._stored() < before + count:
            if time.perf_counter() - began > PATIENCE:
                raise SystemExit(f"Celery stored {self._stored() - before} of {count} results")
            time.sleep(0.02)
        return time.perf_counter() - began

    def close(self) -> None:
        """Stop the worker."""
        super().close()
        self._rows.close()

    def _stored(self) -> int:
        row = self._rows.execute("SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'").fetchone()
        assert row is not None
        return int(row[0])
