"""Test how the tests read PostgreSQL's log: every deadlock, with its statements, and nothing else."""

from __future__ import annotations

from tests.support.postgres import deadlocks_in

LOG = """\
2026-11-29 21:01:50.000 UTC [7] LOG:  database system is ready to accept connections
2026-11-29 21:01:51.000 UTC [31] ERROR:  deadlock detected
2026-11-29 21:01:51.000 UTC [31] DETAIL:  Process 31 waits for ShareLock on transaction 757; blocked by process 46.
\tProcess 46 waits for ShareLock on transaction 756; blocked by process 31.
\tProcess 31: UPDATE pair SET n = n + 1 WHERE id = $1
2026-11-29 21:01:51.000 UTC [31] STATEMENT:  UPDATE pair SET n = n + 1 WHERE id = $1
2026-11-29 21:01:52.000 UTC [32] ERROR:  could not obtain lock on row in relation "pair"
2026-11-29 21:01:53.000 UTC [33] ERROR:  deadlock detected
"""


def test_each_deadlock_comes_with_what_the_server_says_of_it() -> None:
    first, second = deadlocks_in(LOG)

    assert first.splitlines() == LOG.splitlines()[1:6]
    assert second == LOG.splitlines()[7]


def test_other_errors_are_none() -> None:
    assert deadlocks_in(LOG.replace("deadlock detected", "canceling statement due to lock timeout")) == []
