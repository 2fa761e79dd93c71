"""The tasks that Procrastinate runs, and its worker process. Configured by BENCH_ variables."""

from __future__ import annotations

import asyncio
import os

import procrastinate
import redis.asyncio

CONCURRENCY = 20
POLLING = 0.25
"""Seconds between two looks without being notified; its default is five, which one lost notification costs a chain."""

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"], max_size=CONCURRENCY)
)


@app.task(name="nothing")
async def nothing() -> None:
    """A no-op."""


@app.task(name="hop")
async def hop(key: str, left: int) -> None:
    """One of a chain: each defers the next, since there is no chain of its own."""
    if left > 1:
        await hop.defer_async(key=key, left=left - 1)
        return
    async with redis.asyncio.Redis.from_url(os.environ["BENCH_CLIENT"]) as client:
        await client.rpush(key, "1")


async def _work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY, fetch_job_polling_interval=POLLING)


if __name__ == "__main__":
    asyncio.run(_work())
