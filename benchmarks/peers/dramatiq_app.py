"""The actors that Dramatiq runs; its own command line loads them. Configured by BENCH_ variables."""

from __future__ import annotations

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend

client = redis.Redis.from_url(os.environ["BENCH_CLIENT"], socket_timeout=None)
broker = RedisBroker(url=os.environ["BENCH_CLIENT"])
broker.add_middleware(GroupCallbacks(RedisBackend(client=client)))
dramatiq.set_broker(broker)


@dramatiq.actor
def nothing() -> None:
    """A no-op."""


@dramatiq.actor
def over(key: str) -> None:
    """The last of a pipeline or group says so."""
    client.rpush(key, "1")


@dramatiq.actor
def first(key: str, count: int) -> None:
    """One that sends many, and one that comes after them all."""
    many = dramatiq.group([nothing.message() for _ in range(count)])
    many.add_completion_callback(over.message(key))
    many.run()
