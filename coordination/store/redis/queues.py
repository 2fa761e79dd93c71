"""How much waits in the queues. Only for people to look at: what is due is decided in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordination.store.redis.wakeups import unavailable

QUEUES = ("jobs", "supervise")
PREFIX = "coord:"


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a look at the server told: its version, whether it may drop keys, whether it keeps them over a restart."""

    version: str
    eviction: str | None
    append_only: bool | None
    lengths: dict[str, int]


def look(url: str, *, queues: Sequence[str] = QUEUES) -> RedisFacts:
    """One look at the server; RedisUnavailable with a sentence when it does not answer within a few seconds."""
    client = redis.Redis.from_url(
        url, socket_connect_timeout=3, socket_timeout=3, retry=Retry(NoBackoff(), 0), decode_responses=True
    )
    try:
        with client:
            lengths = {name: int(client.llen(PREFIX + name)) for name in queues}
            server = client.info("server")
            memory = client.info("memory")
            kept = client.info("persistence")
    except redis.RedisError as error:
        raise unavailable(url, error) from error
    return RedisFacts(
        version=str(server.get("redis_version", "?")),
        eviction=memory.get("maxmemory_policy"),
        append_only=bool(kept["aof_enabled"]) if "aof_enabled" in kept else None,
        lengths=lengths,
    )
