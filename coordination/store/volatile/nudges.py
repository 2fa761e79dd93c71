"""Nudges over Redis: "have a look at this project" (one listener takes it) and "stop this attempt" (all hear it).

Keys (prefix ``coord:``):
    coord:nudges   list   JSON [workspace id, project id]; a worker's housekeeper pops and ticks the project
    coord:cancels  pub/sub  JSON [[task id, attempt], …]; the worker that runs one of them ends it
    coord:wake:WORKER  list  one element, for seconds: this worker ends, and its housekeeper need not wait for a nudge
Losing any of them costs at most one sweep: supervisors tick and heartbeats tell without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordination.errors import RedisUnavailable

NUDGES = "coord:nudges"
CANCELS = "coord:cancels"
_MOST_NUDGES = 10_000
_WAKES_FOR = 5  # seconds


def wake_key(worker_id: str) -> str:
    """The list that a worker's housekeeper looks at beside the nudges."""
    return f"coord:wake:{worker_id}"


class Nudges:
    """One Redis client, made on first use; every verb swallows nothing and waits at most a few seconds."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        """The client; connects when the first command is sent."""
        if self._client is None:
            self._client = redis.Redis.from_url(
                self.url,
                socket_connect_timeout=5,
                socket_timeout=10,
                health_check_interval=15,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
            )
        return self._client

    def nudge(self, projects: Iterable[tuple[str, str]]) -> None:
        """Ask some worker to look at these (workspace, project) pairs now. Raises RedisUnavailable."""
        bodies = [json.dumps(pair) for pair in projects]
        if bodies:
            self._send(lambda pipe: (pipe.lpush(NUDGES, *bodies), pipe.ltrim(NUDGES, 0, _MOST_NUDGES)))

    def cancel(self, attempts: Sequence[tuple[str, int]]) -> None:
        """Tell whoever runs these (task, attempt) pairs to end them now. Raises RedisUnavailable."""
        if attempts:
            body = json.dumps(list(attempts))
            self._send(lambda pipe: pipe.publish(CANCELS, body))

    def wake(self, worker_id: str) -> None:
        """Let a worker's listeners stop waiting. Raises RedisUnavailable."""
        key = wake_key(worker_id)
        self._send(lambda pipe: (pipe.lpush(key, ""), pipe.expire(key, _WAKES_FOR), pipe.publish(CANCELS, "[]")))

    def ping(self) -> None:
        """One trip to Redis, or RedisUnavailable with a sentence."""
        try:
            self.client.ping()
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def _send(self, fill: object) -> None:
        try:
            with self.client.pipeline(transaction=False) as pipe:
                fill(pipe)  # type: ignore[operator]
                pipe.execute()
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def close(self) -> None:
        """Close the pooled connections."""
        if self._client is not None:
            self._client.close()


def unavailable(url: str, error: BaseException) -> RedisUnavailable:
    """The refusal for a Redis that does not answer, with any password left out."""
    shown = url.rpartition("@")[2] if "@" in url else url.partition("://")[2]
    return RedisUnavailable(
        f"Redis at {shown} cannot be used: {error}",
        hint="Check that it runs and that COORD_REDIS_URL names it; without COORD_REDIS_URL an own one is started",
    )
