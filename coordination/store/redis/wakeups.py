"""Wakeups over Redis: a project to tick (for one worker), and attempts to end (for all workers).

Keys (prefix ``coord:``):
    coord:wakeups  list  JSON [workspace id, project id, signature]; one worker's supervisor loop ticks the project
    coord:cancels  pub/sub  JSON [[task id, attempt], …, signature]; the worker that runs one of them ends it
    coord:wake:WORKER  list  one element, for seconds: this worker ends, and its loop stops waiting
    coord:stops    pub/sub  JSON [[task id, attempt, at once], …, signature]; its worker ends it, and hands it back
Losing any of them costs at most one sweep: supervisors tick and heartbeats detect ends without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordination.base.errors import RedisUnavailable
from coordination.store.redis.signatures import Signatures

WAKEUPS = "coord:wakeups"
CANCELS = "coord:cancels"
STOPS = "coord:stops"
_MAX_WAKEUPS = 10_000
_STOPS_AT_ONCE = 1000
_WAKE_TTL = 5  # seconds


def wake_key(worker_id: str) -> str:
    """Return the key of the list that ends the waiting of this worker's supervisor loop."""
    return f"coord:wake:{worker_id}"


class Wakeups:
    """A Redis client, created on first use. Methods raise errors and wait at most a few seconds."""

    def __init__(self, url: str, signatures: Signatures) -> None:
        """*signatures*: with the key of the database that the wakeups are about."""
        self.url = url
        self.signatures = signatures
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        """The client, which connects when the first command is sent."""
        if self._client is None:
            self._client = redis.Redis.from_url(
                self.url,
                socket_connect_timeout=5,
                socket_timeout=10,
                health_check_interval=15,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
                encoding_errors="replace",  # others may write anything
            )
        return self._client

    def wake_projects(self, projects: Iterable[tuple[str, str]]) -> None:
        """Wake some worker for each of these (workspace, project) pairs. Raises RedisUnavailable."""
        bodies = [self.signatures.sign(WAKEUPS, json.dumps(pair)) for pair in projects]
        if bodies:
            self._send(lambda pipe: (pipe.lpush(WAKEUPS, *bodies), pipe.ltrim(WAKEUPS, 0, _MAX_WAKEUPS)))

    def cancel(self, attempts: Sequence[tuple[str, int]]) -> None:
        """Tell the workers of these (task, attempt) pairs to end them now. Raises RedisUnavailable."""
        if attempts:
            self._publish(CANCELS, attempts)

    def stop(self, attempts: Sequence[tuple[str, int]], *, at_once: bool) -> None:
        """Tell the workers of these (task, attempt) pairs that they are stopped. Raises RedisUnavailable.

        *at_once*: kill them without a grace period.
        """
        for start in range(0, len(attempts), _STOPS_AT_ONCE):
            items = [[task_id, number, at_once] for task_id, number in attempts[start : start + _STOPS_AT_ONCE]]
            self._publish(STOPS, items)

    def _publish(self, channel: str, items: Sequence[Any]) -> None:
        body = self.signatures.sign(channel, json.dumps(list(items)))
        self._send(lambda pipe: pipe.publish(channel, body))

    def wake_worker(self, worker_id: str) -> None:
        """Let a worker's listeners stop waiting. Raises RedisUnavailable."""
        key = wake_key(worker_id)
        no_cancels = self.signatures.sign(CANCELS, "[]")
        self._send(lambda pipe: (pipe.lpush(key, ""), pipe.expire(key, _WAKE_TTL), pipe.publish(CANCELS, no_cancels)))

    def ping(self) -> None:
        """Make one round trip to Redis. Raises RedisUnavailable."""
        try:
            self.client.ping()
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def _send(self, fill: Callable[[Any], object]) -> None:
        try:
            try:
                self._try(fill)
            except redis.ResponseError as error:
                if not self.delete_wrong_keys(error):
                    raise
                self._try(fill)
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def _try(self, fill: Callable[[Any], object]) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            fill(pipe)
            pipe.execute()

    def delete_wrong_keys(self, error: redis.ResponseError, worker_id: str | None = None) -> bool:
        """Delete the keys whose wrong type caused *error*. Return whether there were any.

        Only other programs write them.
        """
        keys = [WAKEUPS] if worker_id is None else [WAKEUPS, wake_key(worker_id)]
        wrong = [key for key in keys if self.client.type(key) not in {"list", "none"}]
        if "WRONGTYPE" not in str(error) or not wrong:
            return False
        self.client.delete(*wrong)
        return True

    def close(self) -> None:
        """Close the pooled connections."""
        if self._client is not None:
            self._client.close()


def unavailable(url: str, error: BaseException) -> RedisUnavailable:
    """Return the error for a Redis that does not answer, without any password."""
    shown = url.rpartition("@")[2] if "@" in url else url.partition("://")[2]
    return RedisUnavailable(
        f"Redis at {shown} cannot be used: {error}",
        hint="Check that it runs and that COORD_REDIS_URL names it; without COORD_REDIS_URL, one is started",
    )
