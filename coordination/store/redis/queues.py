"""Lengths of the queues, for people to see. SQL decides what is due."""

from __future__ import annotations

from dataclasses import dataclass

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordination.store.redis.wakeups import unavailable

QUEUES = ("jobs", "supervise")
PREFIX = "coord:"


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """The server's version, its eviction policy, whether it persists keys, and the lengths of queues."""

    version: str
    eviction: str | None
    append_only: bool | None
    lengths: dict[str, int]


def read_status(url: str) -> RedisStatus:
    """Return facts about the server. Raises RedisUnavailable when it does not answer within a few seconds."""
    client = redis.Redis.from_url(
        url, socket_connect_timeout=3, socket_timeout=3, retry=Retry(NoBackoff(), 0), decode_responses=True
    )
    try:
        with client:
            lengths = {name: int(client.llen(PREFIX + name)) for name in QUEUES}
            server = client.info("server")
            memory = client.info("memory")
            persistence = client.info("persistence")
    except redis.RedisError as error:
        raise unavailable(url, error) from error
    return RedisStatus(
        version=str(server.get("redis_version", "?")),
        eviction=memory.get("maxmemory_policy"),
        append_only=bool(persistence["aof_enabled"]) if "aof_enabled" in persistence else None,
        lengths=lengths,
    )
