"""Every statement, one file a noun. A function takes an open transaction and the workspace, and commits nothing.

``fleet`` is the exception to the second rule: what a worker process does for all it runs is above workspaces.

Locks. On PostgreSQL every transaction locks rows in this order, so that no two wait for each other in a ring:

1.  ``chores``, ``projects`` and ``budgets`` that are changed themselves
2.  ``output_chunks``, by attempt
3.  ``tasks``, by id: all at once, with those that wait for them (``dependencies.with_dependants``)
4.  ``attempts``, by task and number
5.  ``dependencies``: only under the lock of the task that waits, so they need no order
6.  ``slots``: all of a project, by name; those of several projects before any money
7.  ``costs`` and ``rollups``
8.  ``budget_uses``, by budget and period
9.  ``runs``, by id
10. ``supervisors``, ``workers``

Three rules make this hold. A statement that changes several rows locks them first (``tasks.lock``, ``attempts.lock``,
``slots.lock``, ``budgets.lock_uses``), or is written so that it locks them in their order. What turns out late to be
needed, against the order, is not waited for: ``NOWAIT`` makes the statement fail, and ``Store.transact`` begins anew.
What comes round again (ticks, marks, sessions, rescues, claims) leaves out what others have locked: ``SKIP LOCKED``.
What has begun so may hold any of those rows, so all further ones are late.

Who rescues what a worker held locks the worker's row first, and then waits for no task and no attempt; heartbeats,
which hold attempts, lock it last.

A row that others refer to (runs, sessions, budgets, projects) is locked ``FOR NO KEY UPDATE`` (``key_share``): the
foreign keys of new rows take a key-share lock on it, in any order, and must not wait for it.

``tests/flows/test_lock_order.py`` lets all transactions meet and looks at the order of every one's locks; a deadlock in
PostgreSQL's log fails any test run.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, true


def one_of(column: ColumnElement[str], workspaces: Sequence[str] | None) -> ColumnElement[bool]:
    """Return the condition that *column* is one of these workspaces; None allows every workspace."""
    return true() if workspaces is None else column.in_(workspaces)
