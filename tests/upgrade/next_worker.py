"""A worker of the next release: today's code with one more migration, which uses its column and sends a field more."""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import Column, Text, text

from coordination.store import schema
from coordination.store.tables.tasks.tasks import tasks

schema.HEAD, schema.KNOWN = "9999", (*schema.KNOWN, "9999")
tasks.append_column(Column("flavour", Text))

from celery import signals  # noqa: E402 - the table first: statements are built on import

from workers import context  # noqa: E402
from workers.__main__ import main  # noqa: E402
from workers.app import app  # noqa: E402
from workers.process import lifecycle  # noqa: E402

context.version = lambda _: "next"
_send_task = app.send_task


def _send_more(name: str, args: list[Any], **options: Any) -> Any:
    workspace_id, tasks_of_message = args
    with_flavour = [[*item, "sweet"] for item in tasks_of_message]
    return _send_task(name, [workspace_id, with_flavour], {"flavour": "sweet"}, **options)


app.send_task = _send_more


@signals.worker_ready.connect
def _on_ready(**_: Any) -> None:
    running = lifecycle.process().context
    with running.store.write() as tx:
        tx.execute(text("INSERT INTO flavours VALUES (:name, :by)"), {"name": "sweet", "by": running.worker_id})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
